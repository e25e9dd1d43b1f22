"""Which samples a quantized model gets most wrong."""
