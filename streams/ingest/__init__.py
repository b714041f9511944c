"""The data plane: whole micro-batches from Kafka into the lake, exactly once."""
