"""The verdict engine: from counters, a gate file and a watermark to verdicts."""
