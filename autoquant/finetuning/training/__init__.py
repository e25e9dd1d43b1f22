"""Training in the numerics of a plan: data, loss, schedule, the fake-quantized twin."""
