"""ONNX Runtime on this CPU: plans written as quantized ONNX graphs, and what its kernels run."""
