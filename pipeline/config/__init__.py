"""The configuration of a run: TOML in, one frozen value out."""
