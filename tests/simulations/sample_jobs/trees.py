"""Sample jobs of trees of decisions from sums."""

from pathlib import Path

from tests.simulations.sample_jobs.first import heart
from tests.tiny import Tiny, Writer


def table(folder: Path) -> Tiny:
    tiny = heart(folder)
    return Tiny(tiny.data, options=tiny.options)


def one_tree(folder: Path) -> Tiny:
    tiny = heart(folder)
    return Tiny(tiny.data, options=tiny.options, change={"statistics.trees": 1, "statistics.depth": 1, "job.rounds": 1})


JOBS: dict[str, Writer] = {
    "heart-boosting.toml": one_tree,
    "heart-boosting-private.toml": table,
    "heart-forest.toml": table,
}
