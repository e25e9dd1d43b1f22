"""Any accelerator that a YAML file describes; its latency is estimated, its numerics emulated."""
