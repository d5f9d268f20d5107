"""What a CPU computes faster, each a switch of the process."""
