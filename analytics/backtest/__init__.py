"""What a gate file would have said of recorded history, and how often the verdicts were right."""
