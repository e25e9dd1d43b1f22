"""What the ops of a model do to its outputs."""
