"""Simulated agents: scenarios with known ground truth, driven through the real router."""
