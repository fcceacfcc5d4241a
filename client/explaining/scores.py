"""The number that is explained, by task: the log-odds of a class, of a structure where it was found, of an object's score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from salus.client.explaining.subject import Score
from salus.common.batch import Batch
from salus.common.errors import JobError, UnreadableImage
from salus.common.tasks.base import Saying, Task, full
from salus.common.tasks.detection import Detection, overlaps
from salus.common.tasks.segmentation import Segmentation

SINGLE = ("classification", "explained-classification", "multilabel", "regression", "svm", "tabular")
SAME_OBJECT = 0.3  # overlap from which a found box is the object that is explained
LIKELY = 1e-6  # scores of objects are kept this far from 0 and 1, so that their log-odds are finite


@dataclass(frozen=True)
class Question:
    """What is explained.

    Args:
        what: in words, such as ``the class 'lesion'``.
        said: what the model says, in words.
        answer: what two cases must differ in to be counterexamples of each other: a class, the structures found, or a number.
        place: of the class, from 0.
        box: of an object, ``[2 dims]`` in pixels of the network's input.
    """

    score: Score
    what: str
    said: str
    answer: str
    number: float | None = None
    place: int = 0
    probability: float | None = None
    box: tuple[float, ...] = ()


def check_task(task: Task) -> None:
    """Refuse a task whose models take more than one image or row, or say nothing about it; raises JobError."""
    kind = task.settings.kind
    if kind in SINGLE and isinstance(task, Saying):
        return
    if isinstance(task, Segmentation | Detection) and kind in ("segmentation", "detection"):
        return
    raise JobError(
        f"Models of the task {kind!r} cannot be explained yet.",
        remedy=f"Explanations are for: {', '.join((*SINGLE, 'segmentation', 'detection'))}, and for models from sums.",
    )


class ClassScore(Score):
    """The log-odds of one class against all others, or a number of the output."""

    def __init__(self, network: torch.nn.Module, place: int, *, exclusive: bool, number: bool = False) -> None:
        super().__init__()
        self.network, self._place, self._exclusive, self._number = network, place, exclusive, number

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[items]``."""
        assert self.network is not None  # Safe because it is given.
        outputs = full(self.network(inputs))
        if self._number:
            return outputs.reshape(len(inputs))
        own = outputs[:, self._place]
        if not self._exclusive:
            return own
        others = [place for place in range(outputs.shape[1]) if place != self._place]
        return own - torch.logsumexp(outputs[:, others], dim=1)

    def share(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the probability; of a number its place between the job's limits."""
        return scores.clamp(0, 1) if self._number else torch.sigmoid(scores)


class RegionScore(Score):
    """The mean log-odds of one structure over the pixels where the model found it."""

    def __init__(self, network: torch.nn.Module, place: int, region: torch.Tensor) -> None:
        super().__init__()
        self.network, self._place, self._region = network, place, region

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[items]``."""
        assert self.network is not None  # Safe because it is given.
        return log_odds(full(self.network(inputs)), self._place)[:, self._region].mean(dim=1)

    def share(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the probability at the mean log-odds."""
        return torch.sigmoid(scores)


def log_odds(outputs: torch.Tensor, place: int) -> torch.Tensor:
    """Return a channel against all others, ``[items, *spatial]``; a channel that stands alone as it is."""
    own = outputs[:, place]
    others = [channel for channel in range(outputs.shape[1]) if channel != place]
    return own - torch.logsumexp(outputs[:, others], dim=1) if others else own


class ObjectScore(Score):
    """The log-odds of the best score among the objects that are found where the explained one was found."""

    def __init__(self, network: torch.nn.Module, task: Detection, place: int, box: torch.Tensor) -> None:
        super().__init__()
        self.network, self._task, self._place, self._box = network, task, place, box

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[items]``."""
        assert self.network is not None  # Safe because it is given.
        own = self._task.own
        scores = []
        for outputs in full(self.network(inputs)):
            found = self._task.detector.found(outputs, own.most_objects, own.nms_overlap).of_class(self._place)
            near = overlaps(found.boxes.detach(), self._box[None].to(found.boxes))[:, 0] >= SAME_OBJECT
            # Where no object is found any more, the score is the lowest, and no pixel has a gradient.
            scores.append(torch.cat([found.scores[near], outputs.sum()[None] * 0.0 + LIKELY]).max())
        return torch.logit(torch.stack(scores).clamp(LIKELY, 1 - LIKELY))

    def share(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the object's score."""
        return torch.sigmoid(scores)


def question_of(task: Task, network: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> Question:
    """Return what is explained about one input.

    Args:
        inputs: ``[1, ...]`` of the network's own size.
        outputs: of the network for it, ``[1, ...]``.
    """
    if isinstance(task, Segmentation):
        return _structure(task, network, outputs)
    if isinstance(task, Detection):
        return _object(task, network, inputs, outputs)
    assert isinstance(task, Saying)  # Safe because `check_task` has looked.
    said, kind, classes = task.said(outputs[0].cpu()), task.settings.kind, task.settings.classes
    if kind == "regression":
        (name, value), *_ = said.values.items()
        score = ClassScore(network, 0, exclusive=True, number=True)
        return Question(score, f"the number {name!r}", said.label, "", number=value)
    shares: Mapping[str, float] = said.probabilities
    place = int(outputs[0, : len(classes)].argmax())
    exclusive = kind != "multilabel"
    name = classes[place]
    answer = said.label if exclusive else said.label or "none"
    return Question(
        ClassScore(network, place, exclusive=exclusive),
        f"the class {name!r}",
        said.label or "none",
        answer,
        place=place,
        probability=shares.get(name),
    )


def _structure(task: Segmentation, network: torch.nn.Module, outputs: torch.Tensor) -> Question:
    """Return the question about the structure that fills most of the image; where none is found, about the likeliest pixels."""
    classes: Sequence[str] = task.settings.classes
    found = task.predicted(outputs)[0]
    sizes = found.flatten(1).sum(dim=1)
    place = int(sizes.argmax())
    background = outputs.shape[1] - len(classes)
    present = [name for name, size in zip(classes, sizes.tolist(), strict=True) if size]
    if int(sizes[place]):
        region, where = found[place], f"where it was found ({int(sizes[place])} pixels)"
    else:
        odds = [log_odds(outputs, background + number)[0] for number in range(len(classes))]
        place = int(torch.stack([one.max() for one in odds]).argmax())
        region = odds[place] >= odds[place].flatten().topk(max(1, odds[place].numel() // 100)).values.min()
        where = "at its likeliest pixels, as nothing was found"
    said = ", ".join(f"{name} {int(size)} pixels" for name, size in zip(classes, sizes.tolist(), strict=True) if size)
    score = RegionScore(network, background + place, region)
    mean = float(torch.sigmoid(log_odds(outputs, background + place)[0][region].mean()))
    what = f"the structure {classes[place]!r} {where}"
    return Question(score, what, said or "nothing found", "|".join(present) or "none", place=place, probability=mean)


def _object(task: Detection, network: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> Question:
    """Return the question about the object with the best score, even where it is below the score that counts as found."""
    classes, found = task.settings.classes, task.found(outputs[0])
    if not len(found.scores):
        raise UnreadableImage("nothing-found", "the model finds no object in it, not even an unlikely one")
    place, score = int(found.classes[0]), float(found.scores[0])
    kept = found.classes[found.scores >= task.own.least_score].tolist()
    counts = {name: kept.count(number) for number, name in enumerate(classes)}
    listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    box = found.boxes[0]
    weak = "" if kept else ", which is below the score that counts as found"
    return Question(
        ObjectScore(network, task, place, box),
        f"the object of class {classes[place]!r} with the best score{weak}",
        listed or "nothing found",
        "|".join(name for name, count in counts.items() if count) or "none",
        place=place,
        probability=score,
        box=tuple(float(side) for side in box),
    )


def batch_of(task: Task, fields: Mapping[str, Any]) -> Batch:
    """Return the fields of one item as a batch."""
    return Batch({name: torch.as_tensor(value)[None] for name, value in fields.items()})
