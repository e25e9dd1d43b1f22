"""Quality of an executable, its latency and size, always against the float model."""
