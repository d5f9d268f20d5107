"""Works: what is left to do, as values that any executor can run, anywhere."""
