"""The only owner of `torch.ao`, which its authors deprecate: plans flow, not QConfigs."""
