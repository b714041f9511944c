"""From a recommendation to a changed stage: what is due, what was done about it, and the proof that it is in force."""
