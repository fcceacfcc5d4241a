"""A job's transforms in their order: a fixed part, whose results are cached, and a random rest.

    stored image -> [fixed steps before the first random one] -> cache -> [the rest, drawn anew for each use] -> task

Evaluation and prediction run the fixed steps only, wherever they stand in the chain.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from salus.common.batch import Spec
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import ROW, Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms import kind_of
from salus.common.transforms.base import Draw, Fitted, Invertible, Transform

Known = tuple[Example, int]  # a training image and its class number


@dataclass(frozen=True)
class Stage:
    """One step and the fields that it gives.

    Args:
        name: such as ``transforms[2] resize``.
    """

    name: str
    spec: Spec


@dataclass(frozen=True)
class Chain:
    """Transforms in their order.

    Args:
        kinds: names of the transforms in the registry.
        steps: the transforms.
        entries: their settings.
    """

    kinds: tuple[str, ...] = ()
    steps: tuple[Transform, ...] = ()
    entries: tuple[Strict, ...] = ()

    @classmethod
    def of(cls, entries: Sequence[Any], task: TaskSettings) -> "Chain":
        """Return the chain of these settings, each with its `kind`.

        Raises:
            JobError: an unknown kind, or settings that do not fit the task; the message names the step.
        """
        steps = []
        for place, entry in enumerate(entries):
            with_name = _named(place, entry.kind)
            try:
                steps.append(kind_of(entry)(entry, task))
            except JobError as problem:
                raise _at(with_name, problem) from None
        return cls(tuple(entry.kind for entry in entries), tuple(steps), tuple(entries))

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def fixed(self) -> int:
        """Number of steps before the first random one."""
        return len(list(takewhile(lambda step: not step.random, self.steps)))

    @property
    def random(self) -> bool:
        """Whether two uses of one image differ."""
        return self.fixed < len(self.steps)

    @property
    def measured(self) -> bool:
        """Whether the images must come in the modality's own units."""
        return any(step.measured for step in self.steps)

    @property
    def fitted(self) -> bool:
        """Whether a result depends on the site's other images."""
        return any(step.fitted for step in self.steps)

    def learned(self, known: Callable[[], Sequence[Known]]) -> "Chain":
        """Return the chain as it is at one site.

        Args:
            known: reads the site's training images; called only if a step depends on them.
        """
        if not self.fitted:
            return self
        images, steps = list(known()), list(self.steps)
        for place, step in enumerate(steps):
            if isinstance(step, Fitted):
                steps[place] = step.learned(images)
            if not any(later.fitted for later in steps[place + 1 :]):
                break
            images = list(_each(steps[place], images))
        return replace(self, steps=tuple(steps))

    def stages(self, given: Spec, *, training: bool = True) -> list[Stage]:
        """Return the fields after each step, without data.

        Args:
            given: fields before the first step; unknown sides are -1.
            training: whether random steps are included.

        Raises:
            JobError: a step cannot work on what the steps before give; the message names it.
        """
        found, spec = [], given
        for place, (kind, step) in enumerate(zip(self.kinds, self.steps, strict=True)):
            if step.random and not training:
                continue
            try:
                spec = step.spec(spec)
            except JobError as problem:
                raise _at(_named(place, kind), problem) from None
            found.append(Stage(_named(place, kind), spec))
        return found

    def spec(self, given: Spec, *, training: bool = True) -> Spec:
        """Return the fields after the last step; see `stages`."""
        stages = self.stages(given, training=training)
        return stages[-1].spec if stages else given

    def prefix(self, example: Example) -> Example:
        """Return the example after the fixed part, the same at every use; one without an image is left as it is."""
        if _imageless(example):
            return example
        for step in self.steps[: self.fixed]:
            example = step(example, None)
        return example

    def rest(self, example: Example, draw: Draw) -> Example:
        """Return the example for training, from the result of `prefix`."""
        if _imageless(example):
            return example
        steps = self.steps[self.fixed :]
        # A stream for each step: what one step draws must not change what the next ones do.
        for step, own in zip(steps, draw.spawn(len(steps)), strict=True):
            example = step(example, own)
        return example

    def evaluated(self, example: Example) -> Example:
        """Return the example for evaluation, from the result of `prefix`: without the random steps."""
        if _imageless(example):
            return example
        for step in self.steps[self.fixed :]:
            example = example if step.random else step(example, None)
        return example

    def traced(self, original: Example) -> list[Example]:
        """Return the original and the result of each step that is not random; the last one is what a model gets."""
        examples = [original]
        for step in () if _imageless(original) else self.steps:
            if not step.random:
                examples.append(step(examples[-1], None))
        return examples

    def inverse(self, predicted: Example, traced: Sequence[Example]) -> Example:
        """Return a prediction on the grid of the original image.

        Args:
            predicted: spatial fields, such as probabilities or class numbers, on the grid of the last traced example.
            traced: of the image that was predicted on.
        """
        steps = [step for step in self.steps if not step.random]
        for step, original in zip(reversed(steps), reversed(traced[:-1]), strict=True):
            if isinstance(step, Invertible):
                predicted = step.inverse(predicted, original)
        return predicted

    def key(self) -> list[dict[str, Any]] | None:
        """Return what the results of `prefix` depend on besides the image, as plain values; None if on other images, too."""
        if any(step.fitted for step in self.steps[: self.fixed]):
            return None
        return [
            {"kind": kind, "version": step.version, "settings": entry.model_dump(mode="json")}
            for kind, step, entry in list(zip(self.kinds, self.steps, self.entries, strict=True))[: self.fixed]
        ]


def _imageless(example: Example) -> bool:
    """Return whether an example is a row of a table, of a patient whose image is missing."""
    return not example.spatial and set(example.fields) == {ROW}


def _each(step: Transform, images: Sequence[Known]) -> Iterator[Known]:
    """Yield the images after a step; those that it cannot use are counted when they are prepared."""
    for example, target in images:
        with contextlib.suppress(UnreadableImage):
            yield step(example, None), target


def _named(place: int, kind: str) -> str:
    return f"transforms[{place}] {kind}"


def _at(name: str, problem: JobError) -> JobError:
    return JobError(f"{name}: {problem.problem}", remedy=problem.remedy)
