"""Why a quantized model is wrong: a command a file, and what each of them looks at."""
