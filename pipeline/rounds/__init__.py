"""Rounds: what follows what, and each stage through the store."""
