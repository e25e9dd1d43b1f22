"""torch's engines, module by module: for models of which there is no graph."""
