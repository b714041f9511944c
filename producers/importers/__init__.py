"""Imports of recorded agent conversations."""
