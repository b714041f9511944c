"""The doctor: checks of a running installation, from outside its processes, and what to do about each."""
