"""MONAI's U-Net that removes noise, given the time and the class; with attention at the coarsest level only."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.generation.parts import own_task
from salus.common.models.norms import GROUP_WIDTH
from salus.common.models.outputs import cropped, dimensions, without_inplace
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict
from salus.common.tasks.diffusion import DiffusionSettings

TIMES = 1000.0  # what the embedding of time was made for (Ho et al. 2020)
MOST_PLACES = 4096  # at the coarsest level, all pairs of which are compared
Width = Annotated[int, Field(ge=GROUP_WIDTH, le=1024, multiple_of=GROUP_WIDTH)]


class DiffusionUNetSettings(Strict):
    """Settings of the U-Net.

    Args:
        widths: Channels of each level, from the finest to the coarsest; each further level halves the image.
    """

    widths: Annotated[tuple[Width, ...], Field(min_length=2, max_length=6)] = (16, 16, 32)  # 190 000 parameters


@with_settings(DiffusionUNetSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network.

    Raises:
        JobError: another kind of task.
        ValueError: images that are too large for so few levels.
    """
    own_task(task, DiffusionSettings, "diffusion")
    return DiffusionUNet(task, settings_of(task, DiffusionUNetSettings).widths)


class DiffusionUNet(nn.Module):
    """A network that is called with images ``[items, channels, *spatial]``, times 0 .. 1 and class numbers ``[items]``."""

    def __init__(self, task: TaskSettings, widths: tuple[int, ...]) -> None:
        from monai.networks.nets import diffusion_model_unet

        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        places = 1
        for side in task.shape:
            places *= -(-side // self.multiple)
        if places > MOST_PLACES:
            raise ValueError(f"expected at most {MOST_PLACES} places at the coarsest level, got {places}")
        self.network = without_inplace(
            diffusion_model_unet.DiffusionModelUNet(
                spatial_dims=dimensions(task),
                in_channels=task.channels,
                out_channels=task.channels,
                channels=widths,
                attention_levels=(False,) * len(widths),
                num_res_blocks=1,
                norm_num_groups=GROUP_WIDTH,
                num_class_embeds=len(task.classes),
            )
        )

    def forward(self, images: torch.Tensor, times: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return what the network predicts, of the images' shape."""
        sides = images.shape[2:]
        missing = [-side % self.multiple for side in sides]
        padded = F.pad(images, [side for more in reversed(missing) for side in (0, more)])
        return cropped(self.network(padded, times * TIMES, class_labels=classes), sides)
