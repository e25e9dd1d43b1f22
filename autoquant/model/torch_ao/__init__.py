"""The only owner of `torch.ao.quantization`, which its authors deprecate: plans flow, not QConfigs."""
