"""Seeds from the sensitivity ranking, an Optuna strategy, and the ask / measure / tell loop."""
