"""What the numbers say, what follows from it, and whether it is true: pure functions over the lake."""
