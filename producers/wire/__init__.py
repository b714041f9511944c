"""What is said: contracts, decisions, receipts, events, and the topics that carry them."""
