"""`tip report`: runs and comparisons as one page, for people who would rather look than read."""
