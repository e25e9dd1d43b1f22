"""LiteRT (TensorFlow Lite): int8, int16, fp16 and fp32 per op in one `.tflite` file."""
