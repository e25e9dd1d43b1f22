"""A quantized model beside its float model, layer by layer."""
