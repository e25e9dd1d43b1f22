"""Sensitivity: what each knob alone does to the outputs, at three prices."""
