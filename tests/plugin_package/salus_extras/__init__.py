"""A package of another hospital: plug-ins of six kinds, each in one file, for Salus to find."""
