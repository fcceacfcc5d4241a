"""What the networks of a segmentation share: the number of output channels, images of any size, and deep supervision."""

from collections.abc import Sequence

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import nn, torch


def output_channels(task: TaskSettings) -> int:
    """Return the number of a network's output channels.

    One for each structure if there is only one or if structures may overlap; otherwise one for the background as well, because
    the channels then exclude each other.

    Raises:
        JobError: the task is no segmentation.
    """
    if task.kind == "classification":
        raise JobError(
            f"The model {task.model!r} gives a class for every voxel and does not classify whole images.",
            remedy='Use it with task.kind = "segmentation", or choose another model.',
        )
    structures = len(task.classes)
    return structures if structures == 1 or getattr(task, "multi_label", False) else structures + 1


def dimensions(task: TaskSettings) -> int:
    """Return the number of spatial dimensions, 2 or 3; raises JobError for another one."""
    if len(task.shape) not in (2, 3):
        raise JobError(
            f"Expected task.shape with 2 or 3 sides for the model {task.model!r}, got {list(task.shape)}.",
            remedy='Write for example "shape = [64, 64]".',
        )
    return len(task.shape)


class Padded(nn.Module):
    """A network whose input is padded with zeros to a multiple of a number, and whose output is cropped accordingly.

    Args:
        network: maps ``[items, channels, *spatial]`` to an output of the same spatial size.
        multiple: of every side.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the network's output."""
        sides = x.shape[2:]
        missing = [-side % self.multiple for side in sides]
        if not any(missing):
            result: torch.Tensor = self.network(x)
            return result
        padded = self.network(F.pad(x, [side for more in reversed(missing) for side in (0, more)]))
        return cropped(padded, sides)


def cropped(x: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """Return the first voxels along the last dimensions."""
    for dimension, side in enumerate(sides, start=x.dim() - len(sides)):
        x = x.narrow(dimension, 0, side)
    return x


def stacked_heads(heads: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the outputs of deep supervision as one tensor ``[items, heads, channels, *spatial]`` at the size of the first.

    Args:
        heads: the network's output and then those of coarser levels, each ``[items, channels, *spatial]``.
    """
    size = heads[0].shape[2:]
    larger = [head if head.shape[2:] == size else F.interpolate(head, size=size, mode="nearest") for head in heads]
    return torch.stack(larger, dim=1)


def without_inplace(model: nn.Module) -> nn.Module:
    """Switch off in-place activations, which per-patient gradients do not support, and return the model."""
    for layer in model.modules():
        if getattr(layer, "inplace", False):
            vars(layer)["inplace"] = False
    return model
