"""The way out to torch.ao: a plan as a QConfigMapping, verified; its only owner."""
