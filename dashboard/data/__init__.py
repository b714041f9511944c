"""What the page reads from the lake, and how it is modelled."""
