"""What people bring: inputs, outputs, metrics, read from whatever torch's pytree flattens."""
