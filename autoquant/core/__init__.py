"""Values only: no torch, no clock, no network, no random state."""
