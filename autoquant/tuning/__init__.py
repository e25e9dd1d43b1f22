"""The staged method for int8, int16 and fp16."""
