"""What the numbers say: pure functions from integer counts to evidence that survives continuous peeking."""
