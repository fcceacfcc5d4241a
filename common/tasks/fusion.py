"""Classification of patients from an image, a row of a table and a text, any of which may be missing.

    image   the image of the data set
    row     columns beside the image (`--row`), or the row itself where a site has a table and no images
    text    a text beside the image (`--text`), as words that are hashed into a public number of places

What a patient lacks is zero and marked as absent; networks for fusion never read what is absent.
"""

import re
import unicodedata
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Key
from pydantic import model_validator

from salus.common.batch import THERE, Batch, Field
from salus.common.errors import DataError, JobError, UnreadableImage
from salus.common.examples import ROW, Array, Example
from salus.common.job import TaskSettings
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch
from salus.common.tasks.base import Step, full
from salus.common.tasks.classification import Classification, ClassificationSettings
from salus.common.tasks.encoding import encoded_row, row_width

Modality = Literal["image", "row", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "row", "text")
MAX_TEXT = 2**16  # characters of a text that are read
WORD = re.compile(r"\w+")


class FusionSettings(ClassificationSettings):
    """Settings of a fusion.

    Args:
        modalities: What the model is given; one alone shows what the others bring.
        most_words: Words of a text that are read, from its beginning.
        vocabulary: Places into which words are hashed.
        reconstruction: Weight of the error with which a network that can rebuilds what it was given; 0 for others.
    """

    modalities: Annotated[tuple[Modality, ...], Key(min_length=1, max_length=3)] = MODALITIES
    most_words: Annotated[int, Key(ge=1, le=1024)] = 32  # a finding, not a whole report
    vocabulary: Annotated[int, Key(ge=16, le=65_536)] = 512  # a report's words; a larger one costs parameters and noise
    reconstruction: Annotated[float, Key(ge=0, le=100)] = 0.1  # rebuilding is a help, not the goal

    @model_validator(mode="after")
    def _different_modalities(self) -> Self:
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError("expected every modality only once")
        return self

    @property
    def modalities_in_order(self) -> tuple[Modality, ...]:
        """The modalities in the order in which a network takes them."""
        return tuple(name for name in MODALITIES if name in self.modalities)


class Fusion(Classification):
    """One label for each patient's image, row and text."""

    Settings = FusionSettings
    optional: ClassVar[Sequence[str]] = MODALITIES
    """Annotations that an item may lack, and a whole data set too."""

    def __init__(self, settings: TaskSettings) -> None:
        modalities = settings.modalities if isinstance(settings, FusionSettings) else MODALITIES
        if ("image" in modalities) != bool(settings.shape):
            raise JobError(
                'Expected task.shape exactly where "image" is one of task.modalities.',
                remedy='Write for example "shape = [64, 64]", or remove it.',
            )
        if ("row" in modalities) != bool(settings.columns):
            raise JobError(
                'Expected [[task.columns]] exactly where "row" is one of task.modalities.',
                remedy="List the columns of the row, or leave the modality out.",
            )
        self._set(settings, inputs_of(settings))
        self.modalities = modalities

    def prepare(self, example: Example) -> dict[str, torch.Tensor]:
        """Return the modalities, each with whether it is there, and the label where the example has one.

        Raises:
            UnreadableImage: an item that has none of the job's modalities.
        """
        fields: dict[str, torch.Tensor] = {}
        if "image" in self.modalities:
            there = "image" in example
            shape = (self.settings.channels, *self.settings.shape)
            fields["image"] = self._inputs(example) if there else torch.zeros(shape)
            fields["image" + THERE] = torch.tensor([float(there)])
        if "row" in self.modalities:
            fields |= self._row(example.fields.get("row", example.fields.get(ROW)))
        if "text" in self.modalities:
            own = self.settings
            assert isinstance(own, FusionSettings)  # Safe because the section was assembled for this kind.
            fields |= hashed(example.fields.get("text"), own.most_words, own.vocabulary)
        if not any(bool(values.any()) for name, values in fields.items() if name.endswith(THERE)):
            raise UnreadableImage("not-annotated", "it has none of the job's modalities")
        return fields | ({"label": torch.as_tensor(example["label"])} if "label" in example else {})

    def _row(self, values: Array | None) -> dict[str, torch.Tensor]:
        columns = self.settings.columns
        there = values is not None and bool(np.isfinite(values).any())
        if not there or values is None:
            values = np.full(len(columns), np.nan)
        if values.shape != (len(columns),):
            raise DataError(
                f"Expected rows of {len(columns)} columns, got {values.size}.",
                remedy="Register the data set with the job's columns: --row.",
            )
        found = torch.tensor(encoded_row(columns, values)) * float(there)
        return {"row": found, "row" + THERE: torch.tensor([float(there)])}

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's weighted cross-entropy, plus its reconstruction error where the network rebuilds its inputs."""
        outputs = self._outputs(model, batch)
        logits, rebuilt = outputs if isinstance(outputs, tuple) else (outputs, {})
        labels = batch["label"]
        found = F.cross_entropy(full(logits), labels, reduction="none") * self.weights.to(logits)[labels]
        own = self.settings
        assert isinstance(own, FusionSettings)  # Safe because the section was assembled for this kind.
        for name, values in rebuilt.items():
            wanted = targets_of(name, batch, values)
            error = (full(values) - wanted).flatten(1).square().mean(dim=1)
            found = found + own.reconstruction * error * presence(batch, name)
        return found

    def infer(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        outputs = self._outputs(model, batch)
        logits: torch.Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return logits

    def _outputs(self, model: torch.nn.Module, batch: Batch) -> Any:
        return model(*(batch[name] for name in self.spec if name != "label"))


def inputs_of(settings: TaskSettings) -> dict[str, Field]:
    """Return the fields of a fusion's inputs, in the order in which its network takes them."""
    own = settings if isinstance(settings, FusionSettings) else None
    modalities = own.modalities if own else MODALITIES
    one = Field((1,))
    fields: dict[str, Field] = {}
    if "image" in modalities:
        fields |= {"image": Field((settings.channels, *settings.shape), spatial=True), "image" + THERE: one}
    if "row" in modalities:
        fields |= {"row": Field((row_width(settings.columns),)), "row" + THERE: one}
    if "text" in modalities and own:
        words = (own.most_words,)
        fields |= {"text": Field(words, "int64", 0, own.vocabulary), "text" + THERE: Field(words)}
    return fields


def hashed(text: Array | None, most_words: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Return a text's words as places of a public vocabulary, and which of the places are words.

    Words are compared without case and in one Unicode form. Different words may share a place (Weinberger et al. 2009,
    arXiv 0902.2206), but nobody has to agree on a list of words.

    Args:
        text: bytes of UTF-8; None for none.
    """
    written = bytes(text if text is not None else b"")[: 4 * MAX_TEXT].decode(errors="ignore")[:MAX_TEXT]
    words = WORD.findall(unicodedata.normalize("NFKC", written).casefold())[:most_words]
    places, there = torch.zeros(most_words, dtype=torch.int64), torch.zeros(most_words)
    for number, word in enumerate(words):
        places[number] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big") % vocabulary
        there[number] = 1.0
    return {"text": places, "text" + THERE: there}


def presence(batch: Batch, name: str) -> torch.Tensor:
    """Return whether each item has a modality, ``[items]``, 0 or 1."""
    return (batch[name + THERE].flatten(1).sum(dim=1) > 0).float()


def targets_of(name: str, batch: Batch, rebuilt: torch.Tensor) -> torch.Tensor:
    """Return what a rebuilt modality is compared with: the image at its size, the row, or each word's place as a share."""
    if name == "image":
        pool = F.adaptive_avg_pool2d if batch["image"].dim() == 4 else F.adaptive_avg_pool3d
        return pool(batch["image"], rebuilt.shape[2:])  # type: ignore[arg-type]  # two or three sides
    if name == "row":
        return batch["row"]
    there = batch["text" + THERE]
    places = torch.arange(rebuilt.shape[-1], device=there.device)
    one_hot = (batch["text"][..., None] == places).to(there) * there[..., None]
    return one_hot.amax(dim=1)
