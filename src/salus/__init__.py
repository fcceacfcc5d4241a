"""Salus: hospitals train one model together, and their data never leave the hospitals."""

import os

# Flower sends telemetry on import unless this is set; a hospital's process must not.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

__version__ = "0.1.0"
