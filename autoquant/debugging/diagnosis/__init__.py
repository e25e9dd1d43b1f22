"""Why a quantized model is wrong, and what to do about it."""
