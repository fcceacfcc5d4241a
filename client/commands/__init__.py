"""The site operator's commands: `salus client` and `salus dataset`."""
