"""Quantization-aware training of one plan."""
