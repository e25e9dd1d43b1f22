"""What is kept and shown of a search: the result folder, tables, plots, the report."""
