"""Arm Ethos-U NPUs: LiteRT's integer kernels for quality, Vela's estimate for latency."""
