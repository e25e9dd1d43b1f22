"""Reference numerics: what rounding does to a tensor, a weight, a whole graph."""
