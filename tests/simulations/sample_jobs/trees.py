"""Sample jobs of trees of decisions, and of a kernel machine, from sums."""

from pathlib import Path

from tests.builders import write_npz
from tests.simulations.sample_jobs.first import heart
from tests.tiny import Tiny, Writer


def table(folder: Path) -> Tiny:
    tiny = heart(folder)
    return Tiny(tiny.data, options=tiny.options)


def one_tree(folder: Path) -> Tiny:
    tiny = heart(folder)
    return Tiny(tiny.data, options=tiny.options, change={"statistics.trees": 1, "statistics.depth": 1, "job.rounds": 1})


def forest_of_images(folder: Path) -> Tiny:
    return Tiny(
        write_npz(folder / "toy.npz", images=60),
        change={"task.classes": ["0", "1"], "statistics.trees": 9},
    )


def tree_of_images(folder: Path) -> Tiny:
    smaller = {"task.classes": ["0", "1"], "statistics.trees": 1, "statistics.depth": 1, "job.rounds": 1}
    return Tiny(write_npz(folder / "toy.npz", images=60), change=smaller)


def evaluated_tree(folder: Path) -> Tiny:
    few = {"statistics.min_patients": 2, "evaluation.min_patients": 2}
    tiny = one_tree(folder)
    return Tiny(tiny.data, options=tiny.options.model_copy(update={"age_column": "age"}), change={**tiny.change, **few})


JOBS: dict[str, Writer] = {
    "heart-boosting.toml": one_tree,
    "heart-boosting-private.toml": table,
    "heart-forest.toml": table,
    "heart-release.toml": evaluated_tree,
    "heart-least-squares.toml": table,
    "heart-least-squares-private.toml": table,
    "pneumonia-radiomics-boosting.toml": tree_of_images,
    "pneumonia-radiomics-forest.toml": forest_of_images,
}
