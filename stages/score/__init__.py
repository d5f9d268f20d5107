"""Score: what the teacher says of every token of the rollouts."""
