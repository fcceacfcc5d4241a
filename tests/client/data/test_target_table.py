"""Annotations in the catalogue, and their way from the decoding child."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.dicom.messages import Loaded
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources import SOURCES, open_source
from salus.client.data.sources.base import Files
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.target_table import TargetSummary
from salus.client.data.targets import Target
from salus.common.errors import UnreadableImage


def record(number: int, **targets: Target) -> ImageRecord:
    return ImageRecord(f"p{number}", "s", f"k{number}", "", info={"rows": 4, "channels": 1}, targets=targets)


def mask(outside: float = 0.0, **ml: float) -> Target:
    return Target("mask", ml, outside)


def test_annotations_stay_with_their_images_across_data_sets_and_replacement(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    options = SourceOptions()
    for name in ("first", "second"):
        found = [
            record(0),
            record(1, mask=mask(b=1.0, a=2.0)),
            Quarantined("x", "damaged", ""),
            record(2, mask=mask(b=0.0), boxes=Target("boxes", {"cell": 3.0})),
        ]
        catalogue.add_records(name, "images", tmp_path, options, found)
    catalogue.add_records("first", "images", tmp_path, options, [record(7), record(8, mask=mask(c=1.0))], replace=True)
    assert [dict(image.targets) for image in catalogue.images("first")] == [{}, {"mask": "mask"}]
    assert [dict(image.targets) for image in catalogue.images("second")] == [
        {}, {"mask": "mask"}, {"boxes": "boxes", "mask": "mask"},
    ]  # fmt: skip
    facts = [fact.targets for fact in catalogue.facts("second")]
    assert facts == [{}, {"mask": mask(b=1.0, a=2.0)}, {"boxes": Target("boxes", {"cell": 3.0}), "mask": mask(b=0.0)}]
    assert list(facts[1]["mask"].amounts) == ["b", "a"]  # the order of the class numbers
    catalogue.remove("first")
    catalogue.add_records("third", "images", tmp_path, options, [record(9)])
    assert [dict(image.targets) for image in catalogue.images("third")] == [{}]


def test_the_summary_counts_images_empty_masks_and_those_that_reach_beyond_their_image(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    found = [record(0, mask=mask(a=1.5)), record(1, mask=mask(a=0.0)), record(2, mask=mask(0.25, a=0.5, b=1.0))]
    summary = catalogue.add_records("a", "images", tmp_path, SourceOptions(), found)
    assert summary.targets == {"mask": TargetSummary("mask", 3, 1, 1, {"a": 2.0, "b": 1.0})}


def test_structures_of_few_patients_are_not_proposed(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    found = [record(i, mask=mask(z=1.0, a=1.0, rare=float(i < 4), never=0.0)) for i in range(6)]
    catalogue.add_records("a", "images", tmp_path, SourceOptions(), found)
    declared = catalogue.declarations.all()["a"]
    assert declared is not None
    assert declared.annotations == ("mask",)
    (target,) = declared.targets
    assert (target.name, target.kind, target.names) == ("mask", "mask", ("z", "a"))


class Annotated:
    """A source for tests whose answers are given by the data's name; it runs in the child."""

    @staticmethod
    def prepare() -> None:
        """Do nothing."""

    def __init__(self, files: Files, options: SourceOptions) -> None:
        self._files = files

    def wants(self, name: str) -> bool:
        return True

    def group(self, name: str) -> str:
        return ""

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        for name in names:
            yield ImageRecord(name, name, name, "", targets={"mask": mask(a=1.0), "n": Target("numbers", {"age": 1.0})})

    def load(self, key: str) -> Sample:
        good: dict[str, Any] = {
            "tumour": np.arange(6, dtype=np.int16).reshape(2, 3) % 3,
            "m": np.ones((1, 2, 3), np.uint8),
            "n": np.array([np.nan], np.float32),
            "b": np.array([[0, 0, 1.5, 2, 1]], np.float32),
            "none": np.zeros((0, 5), np.float32),
            "t": np.frombuffer(b"text", np.uint8),
        }
        kinds = {"tumour": "mask", "m": "mask", "n": "numbers", "b": "boxes", "none": "boxes", "t": "text"}
        bad = {
            "size": ("tumour", np.zeros((3, 2), np.uint8)),
            "number": ("tumour", np.full((2, 3), 4, np.uint8)),
            "negative": ("tumour", np.full((2, 3), -1, np.int16)),
            "channel": ("m", np.full((1, 2, 3), 2, np.uint8)),
            "nan": ("b", np.full((1, 5), np.nan, np.float32)),
            "infinite": ("n", np.array([np.inf], np.float32)),
            "width": ("b", np.ones((1, 7), np.float32)),
            "degenerate": ("b", np.array([[0, 0, 0, 2, 1]], np.float32)),
            "class": ("b", np.array([[0, 0, 1, 2, 0]], np.float32)),
            "type": ("b", np.array([[0, 0, 1, 2, 1]], np.uint8)),
            "columns": ("n", np.array([1, 2], np.float32)),
        }
        if key in bad:
            good[bad[key][0]] = bad[key][1]
        affine = np.diag([1.0, 2, 3, 1]) if key != "flat" else np.diag([1.0, 0, 3, 1])
        names = {"tumour": ("x", "y"), "n": ("age",)}
        return Sample(
            np.zeros((1, 2, 3), np.float32), affine=affine, targets=good, kinds=kinds, names=names  # type: ignore[arg-type]
        )  # fmt: skip


BAD = ("size", "number", "negative", "channel", "nan", "infinite", "width", "degenerate", "class", "type", "columns")


def test_annotations_cross_from_the_child_and_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fine", "flat", *BAD):
        (tmp_path / name).touch()
    reference = "tests.client.data.test_target_table:Annotated"
    monkeypatch.setattr(SOURCES, "reference", lambda *_, **__: reference)
    source = open_source("images", tmp_path, SourceOptions(), Decoding())
    first = next(iter(source.scan()))
    assert isinstance(first, ImageRecord)
    assert first.targets == {"mask": mask(a=1.0), "n": Target("numbers", {"age": 1.0})}
    sample, same = source.load("fine"), Annotated.load(Annotated.__new__(Annotated), "fine")
    assert sample.names == same.names
    assert sample.kinds == same.kinds
    assert sample.affine is not None
    assert np.array_equal(sample.affine, np.diag([1, 2, 3, 1]))
    assert set(sample.targets) == set(same.targets)
    for name, array in same.targets.items():
        assert sample.targets[name].dtype == array.dtype
        assert sample.targets[name].flags.aligned
        assert np.array_equal(sample.targets[name], array, equal_nan=array.dtype.kind == "f"), name
    for name in BAD:
        with pytest.raises(UnreadableImage) as caught:
            source.load(name)
        assert caught.value.reason == "bad-target", name
    with pytest.raises(UnreadableImage) as caught:
        source.load("flat")
    assert caught.value.reason == "bad-geometry"


@pytest.mark.parametrize("sides", [(2**28, 2**28, 2), (2**28 + 1,), (-1,)])
def test_sizes_are_limited_before_anything_is_allocated(sides: tuple[int, ...]) -> None:
    target = {"name": "mask", "kind": "mask", "dtype": "uint8", "shape": list(sides)}
    try:
        loaded = Loaded.model_validate_json('{"shape": [1, 1], "targets": [' + str(target).replace("'", '"') + "]}")
    except ValueError:
        return
    assert loaded.body_bytes <= 4 + 2**28
