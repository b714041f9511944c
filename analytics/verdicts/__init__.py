"""What follows from the numbers: gates, verdicts and their ledger."""
