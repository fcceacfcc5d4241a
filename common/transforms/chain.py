"""A job's transforms in their order: a fixed part, whose results are cached, and a random rest.

    stored image -> [fixed steps before the first random one] -> cache -> [the rest, drawn anew for each use] -> task

Evaluation and prediction run the fixed steps only, wherever they stand in the chain.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from salus.common.batch import Spec
from salus.common.canonical import canonical_json
from salus.common.errors import JobError
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms import TRANSFORMS
from salus.common.transforms.base import UNKNOWN, Draw, Invertible, Transform, with_sides

STREAM = b"salus/augmentation/1"


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
            kind = TRANSFORMS.get(entry.kind, error=JobError)
            try:
                steps.append(kind(entry, task))
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
        """Return the example after the fixed part, the same at every use."""
        for step in self.steps[: self.fixed]:
            example = step(example, None)
        return example

    def rest(self, example: Example, draw: Draw) -> Example:
        """Return the example for training, from the result of `prefix`."""
        steps = self.steps[self.fixed :]
        # A stream for each step: what one step draws must not change what the next ones do.
        for step, own in zip(steps, draw.spawn(len(steps)), strict=True):
            example = step(example, own)
        return example

    def evaluated(self, example: Example) -> Example:
        """Return the example for evaluation, from the result of `prefix`: without the random steps."""
        for step in self.steps[self.fixed :]:
            example = example if step.random else step(example, None)
        return example

    def traced(self, original: Example) -> list[Example]:
        """Return the original and the result of each step that is not random; the last one is what a model gets."""
        examples = [original]
        for step in self.steps:
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

    def key(self) -> list[dict[str, Any]]:
        """Return what the results of `prefix` depend on besides the image, as plain values, for the key of a cache."""
        return [
            {"kind": kind, "version": step.version, "settings": entry.model_dump(mode="json")}
            for kind, step, entry in list(zip(self.kinds, self.steps, self.entries, strict=True))[: self.fixed]
        ]


def unresolved(spec: Spec) -> Spec:
    """Return the fields of a task as they are before any transform: the sides of images and masks are unknown."""
    dims = {len(field.shape) - 1 for field in spec.values() if field.spatial}
    return with_sides(spec, (UNKNOWN,) * dims.pop()) if dims else spec


def check_result(chain: Chain, task_spec: Spec) -> list[Stage]:
    """Return the stages of a chain for training after checking that the last one gives what the task trains on.

    Raises:
        JobError: a step does not fit, or the result has other shapes or sides that depend on the image.
    """
    stages = chain.stages(unresolved(task_spec))
    result = stages[-1].spec if stages else unresolved(task_spec)
    last = stages[-1].name if stages else "task.transforms"
    for name, field in task_spec.items():
        got = result[name].shape if name in result else None
        if got is not None and UNKNOWN in got:
            raise JobError(
                f"{last}: the sides of {name!r} still depend on the image: {shown(got)}.",
                remedy="End the chain with a resize, center-crop or random-crop to task.shape.",
            )
        if got != field.shape:
            raise JobError(
                f"{last}: expected {name!r} of {shown(field.shape)}, the chain gives {shown(got or ())}.",
                remedy="Correct the size of the last resize or crop, or task.shape.",
            )
    return stages


def shown(shape: Sequence[int]) -> str:
    """Return a shape for people, with ``?`` for a side that depends on the image."""
    return " x ".join("?" if side == UNKNOWN else str(side) for side in shape) or "nothing"


def stream(secret: bytes, *parts: str | int) -> Draw:
    """Return the generator of one use of one image.

    Args:
        secret: of the site, so that nobody else can repeat the draws.
        parts: whatever distinguishes this use: job, image, copy, round or epoch.

    Guarantees: equal parts give equal draws on every machine; other parts give independent ones, as far as HMAC-SHA256 is a
    pseudo-random function.
    """
    digest = hmac.new(secret, STREAM + b"\0" + canonical_json(list(parts)), hashlib.sha256).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))


def _named(place: int, kind: str) -> str:
    return f"transforms[{place}] {kind}"


def _at(name: str, problem: JobError) -> JobError:
    return JobError(f"{name}: {problem.problem}", remedy=problem.remedy)
