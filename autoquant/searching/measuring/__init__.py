"""Quality, latency and size of one plan, always against the float model."""
