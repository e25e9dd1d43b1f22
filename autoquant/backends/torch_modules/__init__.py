"""torch's engines, module by module: for models of which torch.fx has no graph."""
