"""Fusion of an image, a row and a text, of which any may be missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulations.sample_jobs.fusion import patients
from tests.tiny import run_tiny, tiny_job

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import Memory, local_data
from salus.client.data.sources.settings import SourceOptions
from salus.common.batch import THERE, Batch, example_batch
from salus.common.declaration import Declaration, DeclaredColumn, DeclaredTarget
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Example
from salus.common.fit import problems_of
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.fusion import hashed

NETWORKS = ("fusion-early", "fusion-late", "fusion-cross-attention", "fusion-autoencoder")
JOB = """
[job]
name = "f"
rounds = 1
min_sites = 5
[task]
kind = "fusion"
model = "{model}"
dataset = "patients"
classes = ["well", "ill"]
vocabulary = 32
most_words = 4
feature_width = 8
{own}
[privacy]
noise = "none"
"""
COLUMNS = (
    '[[task.columns]]\nname = "crp"\ncentre = 20.0\nscale = 10.0\n[[task.columns]]\nname = "sex"\nvalues = [0.0, 1.0]'
)


def job(model: str = "fusion-early", own: str = "shape = [8, 8]\n" + COLUMNS) -> Job:
    return parse_job(JOB.format(model=model, own=own))


def network(model: str) -> tuple[torch.nn.Module, Any]:
    task = make_task(job(model).task)
    return build_model(task.settings, 0), task


@pytest.mark.parametrize("model", NETWORKS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16), absent=st.sets(st.sampled_from(["image", "row", "text"]), min_size=1))
def test_what_is_absent_has_no_influence(model, seed, absent):
    net, task = network(model)
    fields = dict(example_batch(task.spec, 3).fields)
    random = torch.Generator().manual_seed(seed)
    for name in absent:
        fields[name + THERE] = torch.zeros_like(fields[name + THERE])
    other = dict(fields)
    for name in absent - {"text"}:
        other[name] = torch.randn(fields[name].shape, generator=random)
    other["text"] = torch.where(
        fields["text" + THERE] > 0, fields["text"], torch.randint(0, 32, fields["text"].shape, generator=random)
    )
    one, two = task.infer(net, Batch(fields)), task.infer(net, Batch(other))
    assert torch.allclose(one, two, atol=1e-5)
    one, two = (task.losses(net, Batch(values), task.steps[0]) for values in (fields, other))
    assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("model", NETWORKS)
def test_what_is_there_has_an_influence(model):
    net, task = network(model)
    fields = {name: tensor.clone() for name, tensor in example_batch(task.spec, 2).fields.items()}
    for name in ("image", "row", "text"):
        fields[name + THERE] = torch.ones_like(fields[name + THERE])
    before = task.infer(net, Batch(fields))
    for name in ("image", "row", "text"):
        values = fields[name]
        other = (values + 1) % 32 if name == "text" else values + 3 * torch.rand(values.shape)
        changed = {**fields, name: other}
        assert not torch.allclose(before, task.infer(net, Batch(changed)), atol=1e-6), name


def test_an_item_becomes_tensors_and_marks():
    task = make_task(job().task)
    text = np.frombuffer("Pleural EFFUSION, ﬁne".encode(), np.uint8)
    full = task.prepare(
        Example(
            {"image": np.zeros((1, 8, 8), np.float32), "row": np.array([30.0, 1.0]), "text": text}, frozenset({"image"})
        )
    )
    assert full["row"].tolist() == [1.0, 0.0, 1.0]
    assert full["text" + THERE].tolist() == [1, 1, 1, 0]
    partly = task.prepare(
        Example({"image": np.zeros((1, 8, 8), np.float32), "row": np.array([np.nan, 1.0])}, frozenset({"image"}))
    )
    assert partly["row"].tolist() == [0.0, 0.0, 1.0]
    assert partly["row" + THERE].tolist() == [1.0]
    lacking = task.prepare(
        Example({"image": np.zeros((1, 8, 8), np.float32), "row": np.array([np.nan, np.nan])}, frozenset({"image"}))
    )
    assert (lacking["row" + THERE].item(), lacking["text" + THERE].sum().item()) == (0.0, 0.0)
    row_alone = task.prepare(Example({"features": np.array([10.0, 0.0])}))
    assert (row_alone["image" + THERE].item(), row_alone["row"].tolist()) == (0.0, [-1.0, 1.0, 0.0])
    with pytest.raises(UnreadableImage, match="none of the job's modalities"):
        task.prepare(Example({"features": np.array([np.nan, np.nan])}))


def test_words_are_compared_without_case_and_unicode_form():
    one, two = (
        hashed(np.frombuffer(t.encode(), np.uint8), 4, 64)["text"] for t in ("Ödem ﬁbrose", "o\u0308dem FIBROSE")
    )
    assert torch.equal(one, two)
    assert hashed(np.frombuffer(b"\xff\xfe odd", np.uint8), 4, 64)["text" + THERE].sum() == 1
    assert hashed(np.frombuffer(b"word " * 10**5, np.uint8), 4, 64)["text" + THERE].sum() == 4


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("shape = [8, 8]", "task.columns"),
        (COLUMNS, "task.shape"),
        ('modalities = ["text"]\nshape = [8, 8]', "task.shape"),
    ],
)
def test_modalities_and_inputs_must_agree(own, said):
    with pytest.raises(JobError, match=said.replace(".", r"\.")):
        make_task(job(own=own).task)


def test_other_networks_and_other_tasks_are_refused():
    with pytest.raises(JobError, match="image, a row and a text"):
        build_model(parse_job(JOB.replace('"fusion"', '"classification"').replace("vocabulary = 32\nmost_words = 4\n", "").format(
            model="fusion-early", own="shape = [8, 8]")).task, 0)  # fmt: skip


def test_a_site_without_images_takes_part_with_its_table(tmp_path: Path) -> None:
    lines = ["patient,crp,sex,label"] + [f"P{n},{20 + n},{n % 2},{'ill' if n % 2 else 'well'}" for n in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    catalogue = Catalogue(tmp_path / "c.sqlite", b"secret for tests")
    catalogue.add("patients", "table", tmp_path / "t.csv", SourceOptions())
    mine = job()
    data = local_data(catalogue, mine, make_task(mine.task), Memory(2**24))
    assert len(data.train) + len(data.validation) == 40
    batch = data.train.batch(torch.arange(3))
    assert batch["image" + THERE].sum() == 0
    assert batch["row" + THERE].sum() == 3


def test_a_job_fits_images_with_or_without_rows_and_tables():
    images = {"kind": "images", "classes": ("well", "ill"), "dimensions": (2,), "channels": (1,)}
    with_row = DeclaredTarget(name="row", kind="row", names=("crp", "sex"))
    table = Declaration(
        kind="table", classes=("well", "ill"), columns=(DeclaredColumn(name="crp"), DeclaredColumn(name="sex"))
    )
    for declared in (Declaration(**images), Declaration(**images, targets=(with_row,)), table):
        assert problems_of(job(), {"patients": declared}) == []
    other = DeclaredTarget(name="row", kind="row", names=("CRP", "sex"))
    (problem,) = problems_of(job(), {"patients": Declaration(**images, targets=(other,))})
    assert "'crp' is not beside the images" in problem.text
    assert problems_of(job(), {"patients": table.model_copy(update={"columns": ()})})


def test_one_modality_alone_needs_no_image() -> None:
    images = Declaration(kind="images", classes=("well", "ill"), dimensions=(2,), channels=(1,))
    alone = job(own='modalities = ["row"]\n' + COLUMNS)
    assert problems_of(alone, {"patients": images}) == []
    task = make_task(alone.task)
    assert set(task.spec) == {"row", "row" + THERE, "label"}


@pytest.mark.parametrize(
    ("noise", "model"),
    [pytest.param("local", "fusion-autoencoder", marks=pytest.mark.slow), ("distributed", "fusion-early")],
)
def test_a_federation_trains_under_noise(tmp_path: Path, noise: str, model: str) -> None:
    tiny = patients(tmp_path)
    privacy = {"noise": noise, "epsilon": 20.0, "sampling_rate": 0.5, "patients_per_site": 20, "evaluation_share": 0.2}
    change = {**tiny.change, "task.model": model, "privacy": privacy, "training": {"batch_size": 16}}
    record = run_tiny(
        tiny_job("fusion-phantom.toml", type(tiny)(**{**vars(tiny), "change": change})), tiny, tmp_path / "run"
    )
    assert 0 <= record["metrics"]["auc"] <= 1


def test_rebuilding_counts_only_what_is_there():
    net, task = network("fusion-autoencoder")
    whole = example_batch(task.spec, 1)
    fields = {n: (torch.zeros_like(t) if n.endswith(THERE) else t) for n, t in whole.fields.items()}
    fields["row" + THERE] = torch.ones(1, 1)
    batch = Batch(fields)
    logits, rebuilt = task._outputs(net, batch)
    expected = (
        torch.nn.functional.cross_entropy(logits, batch["label"])
        + 0.1 * (rebuilt["row"] - batch["row"]).square().mean()
    )
    assert task.losses(net, batch, task.steps[0]).item() == pytest.approx(expected.item(), abs=1e-5)
