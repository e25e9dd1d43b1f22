"""The plans that a search begins with."""
