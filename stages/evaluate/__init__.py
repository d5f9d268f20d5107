"""Evaluate: answers to problems with known answers, and their verdicts."""
