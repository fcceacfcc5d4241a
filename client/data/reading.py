"""DICOM files that others made, decoded in one child process of this process that can open nothing, see `isolation`."""

import threading
from pathlib import Path

from salus.client.data.dicom import DicomImage
from salus.client.data.isolation import MAX_FILE_BYTES, Isolated
from salus.common.errors import UnreadableImage

MAX_SECONDS = 60.0  # a thousand compressed slices in one file take a while
MAX_MEMORY_BYTES = 4 * 2**30
_lock = threading.Lock()
_child = Isolated(seconds=MAX_SECONDS, memory_bytes=MAX_MEMORY_BYTES)


def read_isolated(path: Path) -> DicomImage:
    """Read and decode one file; safe to call from several threads, one after the other.

    Raises:
        UnreadableImage: as `dicom.read_dicom`, and ``too-slow`` or ``crashed`` where the child had to be ended or died.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnreadableImage("too-large", f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableImage("missing", f"{path.name} is not there any more") from None
    except OSError:
        raise UnreadableImage("unreadable", f"{path.name} cannot be read") from None
    with _lock:
        return _child.read(data, path.name)
