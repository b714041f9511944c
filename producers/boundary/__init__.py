"""What may run: hard authorization, policy in feature flags, and the decision that follows."""
