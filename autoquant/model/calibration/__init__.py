"""Statistics of every tensor, in one pass, and the ranges that follow from them."""
