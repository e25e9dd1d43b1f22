"""Searches and fine-tunings in MLflow."""
