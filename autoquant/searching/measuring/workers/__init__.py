"""Evaluations in this process, or on Ray workers."""
