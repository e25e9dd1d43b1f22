"""stub"""
from __future__ import annotations
def profile_costs(backend, space, inputs):
    return None
