"""Tables, artifacts, keys and queries. Knows files and numbers, and nothing of models."""
