"""What is wrong with a running installation, and what to do about it, told from outside its processes."""
