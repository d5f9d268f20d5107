"""Prompts: rendered to token ids, and the order in which rounds take them."""
