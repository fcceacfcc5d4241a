"""The listener of the node: every object goes into the spool within its own C-STORE."""

from collections.abc import Callable

from salus.client.data.incoming.receiver import BUSY, DimseOptions, Receiver

Take = Callable[[str, bytes, int], int]


class Node(Receiver):
    """Listens for objects, which `take` answers for.

    Args:
        take: gets SOPInstanceUID, bytes and connection of an object, and returns the status of its C-STORE.
    """

    def __init__(self, options: DimseOptions, take: Take) -> None:
        super().__init__(options)
        self._take = take

    def take(self, name: str, data: bytes, connection: int) -> int:
        """Answer from the spool; while the node stops, the sender keeps its object."""
        return BUSY if self._closed.is_set() else self._take(name, data, connection)
