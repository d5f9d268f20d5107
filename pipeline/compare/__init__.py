"""Which tokens matter: rules x budgets x seeds from shared artifacts."""
