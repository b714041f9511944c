"""Parts that the views share: layout, charts, symbols and HTML."""
