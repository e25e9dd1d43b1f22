"""Everything before the first candidate: capture, calibration, engine, space."""
