"""What a plan that nobody measured will cost."""
