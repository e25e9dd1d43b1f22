"""Quantization-aware training of a plan."""
