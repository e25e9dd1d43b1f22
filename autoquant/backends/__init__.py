"""Targets: what each can run, plan -> executable, read-back, export."""
