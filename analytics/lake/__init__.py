"""The one door to the tables."""
