"""Models of many makers, as a stranger would bring them."""
