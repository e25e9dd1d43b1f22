"""What was found of a model or of a plan, as values that reports, plots and files show."""
