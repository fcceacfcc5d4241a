"""Attacks on a job, run through its own path over virtual hospitals on this machine."""
