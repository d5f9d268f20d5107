"""The order of things: run configuration, rounds, comparison, status and reports."""
