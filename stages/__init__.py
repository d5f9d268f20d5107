"""The stages: rollout, score, select, train, evaluate. Each turns artifacts into an artifact."""
