"""OpenVINO on this machine's CPU: int8, bf16 and fp32 per op in one model."""
