"""Trackers: what a run's metrics say, told to experiment trackers that may be away."""
