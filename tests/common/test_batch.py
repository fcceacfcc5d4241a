"""Named tensors with a common number of items."""

import pytest
import torch

from salus.common.batch import Batch, Field, example_batch, joined, stacked

SPEC = {
    "image": Field((1, 4, 4)),
    "boxes": Field((3, 4)),
    "boxes.there": Field((3,)),
    "label": Field((), "int64", 0, 5),
}


def test_examples_have_the_specs_shapes_and_ranges_and_are_always_the_same() -> None:
    batch = example_batch(SPEC, 64)
    assert {name: tuple(batch[name].shape) for name in batch} == {name: (64, *f.shape) for name, f in SPEC.items()}
    assert set(batch["label"].tolist()) == set(range(5))
    assert set(batch["boxes.there"].unique().tolist()) == {0.0, 1.0}
    assert all(torch.equal(batch[name], example_batch(SPEC, 64)[name]) for name in SPEC)


def test_rows_and_joining_are_inverse() -> None:
    batch = example_batch(SPEC, 6)
    again = joined([batch.rows(slice(0, 2)), batch.rows(torch.tensor([2, 3, 4, 5]))])
    assert all(torch.equal(batch[name], again[name]) for name in SPEC)
    items = [{name: batch[name][place] for name in batch} for place in range(6)]
    assert all(torch.equal(batch[name], stacked(items)[name]) for name in SPEC)


def test_double_leaves_integers() -> None:
    batch = example_batch(SPEC, 2).double()
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.float64, torch.int64)


def test_fields_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of items"):
        Batch({"a": torch.zeros(2), "b": torch.zeros(3)})
