"""Mixed-precision quantization search for PyTorch models."""
