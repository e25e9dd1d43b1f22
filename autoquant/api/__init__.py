"""The product in a few functions: search, load, export, and the steps on their own."""
