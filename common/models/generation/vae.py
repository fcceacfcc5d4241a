"""The networks of a variational autoencoder: ``encoder`` and ``decoder``."""

from salus.common.job import TaskSettings
from salus.common.models.generation.parts import CodeSettings, Decoder, Encoder, own_task
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.tasks.vae import VaeSettings


@with_settings(CodeSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return both networks.

    Raises:
        JobError: another kind of task, or sizes that need too many weights.
    """
    size, widths = own_task(task, VaeSettings, "vae").latent_size, settings_of(task, CodeSettings).widths
    return nn.ModuleDict({"encoder": Encoder(task, widths, 2 * size), "decoder": Decoder(task, widths, size)})
