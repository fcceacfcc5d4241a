"""One file for each version of the coordinator's tables."""
