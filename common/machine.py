"""The memory of this machine."""

import psutil

MEBIBYTE = 2**20


def machine_limit_bytes() -> int:
    """Return the default limit for a job on this machine: three quarters of its memory."""
    return 3 * psutil.virtual_memory().total // 4
