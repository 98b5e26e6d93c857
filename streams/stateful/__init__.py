"""What a role with state is built on: opening, checkpoints, the changelog it owns."""
