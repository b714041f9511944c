"""Signals: what is counted about a cell, and the state of all counts."""
