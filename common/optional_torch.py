"""torch where it is installed; a coordinator's image has none, see `common.outline`.

Tasks, transforms and networks name their settings, so a coordinator imports their modules to read a job. Without torch they
see a stand-in: classes can be derived from it and named in annotations; calling anything of it raises ConfigError.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from salus.common.extras import needs_torch

if TYPE_CHECKING:
    import torch as torch
    from torch import nn as nn
    from torch.nn import functional as functional

Made = TypeVar("Made")


class _Absent(type):
    """The type of everything in a stand-in."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise needs_torch()

    def __getattr__(cls, name: str) -> Any:
        return _stand_in(name)


def _stand_in(name: str) -> _Absent:
    if name.startswith("__"):  # `inspect` and `copy` look for such names, and must not find them
        raise AttributeError(name)
    return _Absent(name, (), {})


class _NoTorch(ModuleType):
    """A module of torch that is not installed."""

    def __getattr__(self, name: str) -> Any:
        found = _stand_in(name)
        setattr(self, name, found)  # the same class each time, so that it is equal to itself
        return found


try:
    import torch
    from torch import nn
    from torch.nn import functional

    TORCH = True
except ModuleNotFoundError as missing:
    if missing.name != "torch":  # torch is there and incomplete: that is for its operator to mend
        raise
    torch, nn, functional = _NoTorch("torch"), _NoTorch("torch.nn"), _NoTorch("torch.nn.functional")
    TORCH = False


def constant(make: Callable[[Any], Made]) -> functools.cached_property[Made]:
    """Return a property with tensors that are computed at first use and then kept.

    The first use may be a check of shapes (device ``meta``) or an evaluation (inference mode). A tensor made there has no
    values, or cannot be part of training afterwards, so these are computed with both switched off.
    """

    @functools.wraps(make)
    def compute(owner: Any) -> Made:
        with torch.inference_mode(False), torch.device("cpu"):
            return make(owner)

    return functools.cached_property(compute)
