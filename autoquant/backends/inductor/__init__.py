"""torch.compile's inductor, with torchao's PT2E quantization driven by plans."""
