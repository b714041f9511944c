"""Whether the numbers are true."""
