"""The commands of `tip` that are not about playing, merged into one by `cli.py`."""
