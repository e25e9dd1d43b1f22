"""Equalisation: channels that are tied, the scales that even them out, and the rewrite."""
