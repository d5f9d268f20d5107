"""The built-in pair: a small task, its tokenizer, and a teacher and student trained on it."""
