"""Collects a finished job into a model package; see `common.package` for what one holds."""
