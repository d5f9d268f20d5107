"""The heart: support, divergences, loss, and where the row of a token lies."""
