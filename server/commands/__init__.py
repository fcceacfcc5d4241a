"""The coordinator's commands: `salus server`, `salus job` and `salus consortium`."""
