"""`tip inspect`: a run's tokens in the terminal."""
