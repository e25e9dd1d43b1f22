"""Range finding: from the statistics of one pass to the range of a tensor's integer grid."""
