"""Where a job's model starts: the weights of an earlier model, which parts are new, and low-rank adapters."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from salus.common.strict import Strict

MOST_RANK = 64  # a layer whose change needs more is better trained in full
Prefix = Annotated[str, Field(min_length=1, max_length=200)]  # the beginning of parameters' names
Prefixes = Annotated[tuple[Prefix, ...], Field(max_length=1000)]
Hash = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Lora(Strict):
    """Low-rank adapters beside linear and convolution layers; only they are trained, and the parts that `trainable` lists.

    Args:
        rank: Rank of every adapter: numbers between its two factors.
        on: Beginnings of the names of the layers that get an adapter; empty: all linear and convolution layers.
        scale: Factor of what an adapter adds.
    """

    rank: Annotated[int, Field(ge=1, le=MOST_RANK)] = 4  # small ranks lose little (Hu et al. 2021, table 6)
    on: Prefixes = ()
    scale: Annotated[float, Field(gt=0, le=100)] = 1.0


class Start(Strict):
    """The package whose weights the model begins with, instead of numbers drawn from the job's seed.

    `salus model start` prints both hashes.

    Args:
        package: Hash of the package's manifest; by it people find the package. Only the coordinator vouches for it.
        weights: Hash of its parameters, with names and shapes; every site compares what it receives with it.
        new: Beginnings of the names of parameters that are not taken from there, such as the last layer for other classes.
    """

    package: Hash
    weights: Hash
    new: Prefixes = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.new)) != len(self.new):
            raise ValueError("expected every one of new only once")
        return self
