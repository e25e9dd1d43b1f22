"""Structure: what of a model's graph and configuration stands in the way of quantization."""
