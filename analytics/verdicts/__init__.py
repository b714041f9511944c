"""Verdicts as they are recorded, read and asked for: document, messages, ledger, gate check."""
