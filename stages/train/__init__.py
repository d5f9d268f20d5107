"""Train: the student learns from the selected tokens."""
