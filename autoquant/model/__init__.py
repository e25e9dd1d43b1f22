"""The model under search: loading, capture of sites, calibration, numerics, QConfigMapping."""
