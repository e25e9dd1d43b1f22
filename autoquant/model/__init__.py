"""The model under search: its data, its graph, its statistics, its reference numerics."""
