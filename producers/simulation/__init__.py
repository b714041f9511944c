"""Simulated agents: scenarios with a known truth, driven through the real router."""
