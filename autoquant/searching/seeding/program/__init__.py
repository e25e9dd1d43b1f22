"""The frontier of two additive models, by integer programs."""
