"""Salus: hospitals train one model together; their data never leave them."""

import os

# Flower phones home on import unless told otherwise; a hospital's process does not.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

__version__ = "0.1.0"
