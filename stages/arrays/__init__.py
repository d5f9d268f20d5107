"""Arrays and batches: knows no model."""
