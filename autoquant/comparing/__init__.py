"""A quantized model beside its float model, op by op."""
