"""Rollout: the student answers prompts."""
