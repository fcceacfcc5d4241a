"""Secret bytes that are never printed and are overwritten when a session ends."""


class Secret:
    """Secret bytes.

    Guarantees: `repr`, `str` and formatting show no byte; it cannot be pickled, compared or hashed by accident.
    Not promised: that no copy is left in memory. Python's and OpenSSL's own copies cannot be reached; `drop` overwrites ours.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: bytes) -> None:
        self._value = bytearray(value)

    def reveal(self) -> bytes:
        """Return the bytes, for the one computation that needs them; raises ValueError after `drop`."""
        if not self._value:
            raise ValueError("this secret has been dropped")
        return bytes(self._value)

    def drop(self) -> None:
        """Overwrite and drop the bytes."""
        self._value[:] = bytes(len(self._value))
        self._value = bytearray()

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        raise TypeError("secrets are not compared")

    def __reduce__(self) -> str:
        raise TypeError("secrets are not stored")
