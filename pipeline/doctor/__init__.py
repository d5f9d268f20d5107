"""Everything that can be known of a run before work, looked at in one go: `tip doctor`."""
