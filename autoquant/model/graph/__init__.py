"""One graph of the model, and the sites in it."""
