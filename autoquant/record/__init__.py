"""What is kept and shown of a search: the result folder, MLflow, tables, plots, the report."""
