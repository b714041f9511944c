"""Webhooks out: who is told of changes in the lives of recommendations, what, and how it is delivered."""
