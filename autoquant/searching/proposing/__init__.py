"""What to ask next, what to measure of it, and the loop of asking, measuring and telling."""
