"""What leaves this machine and comes to it: models and signals, as folders and on the hub."""
