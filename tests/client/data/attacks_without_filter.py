"""The attacks on a machine that offers no seccomp filter."""

from tests.client.data.attacks import Attacks

from salus.client.data.sandbox import seccomp

__all__ = ["Attacks"]
seccomp.available = lambda: False  # type: ignore[assignment]  # in the child that loads this module, and nowhere else
