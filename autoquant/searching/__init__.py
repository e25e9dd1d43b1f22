"""A search, from its job to its frontier: read `search.run_search` first."""
