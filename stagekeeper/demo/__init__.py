"""What the embedded demonstration ships: its gate file."""
