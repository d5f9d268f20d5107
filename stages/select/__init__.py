"""Select: which tokens are trained on."""
