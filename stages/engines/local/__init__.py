"""The embedded engine: a transformers model with a key-value cache."""
