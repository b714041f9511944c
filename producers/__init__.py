"""What a tool router says, decides and delivers: the SDK, importable without any analytics dependency."""
