from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import toy_catalogue

from salus.client.data.harmonise import harmoniser_of
from salus.client.data.loading import Memory, local_data
from salus.client.data.records import Sample
from salus.common.errors import JobError, UnreadableImage
from salus.common.job import Job, parse_job
from salus.common.job_statistics import Harmonise
from salus.common.sums.combat import CombatModel
from salus.common.sums.features import FEATURES, image_features
from salus.common.tasks import make_task

LANDMARKS = tuple(float(x) for x in np.linspace(0, 1, 11))
F = len(FEATURES)


def sample(scale: float = 1.0, seed: int = 0) -> Sample:
    picture = np.random.default_rng(seed).gamma(2, 50, size=(1, 32, 32)).astype(np.float32)
    return Sample(np.zeros((1, 32, 32), np.float32), intensities=picture * scale)


def test_nyul_takes_the_intensities_and_undoes_a_vendors_scale() -> None:
    harmonise = harmoniser_of(Harmonise(kind="nyul", landmarks=LANDMARKS))
    one, other = harmonise(sample(), "GE"), harmonise(sample(7.0), "SIEMENS")
    assert one.values.std() > 0.1
    assert np.allclose(one.values, other.values, atol=1e-5)
    assert one.values.dtype == np.float32


def test_zscore_uses_the_vendors_scale_else_that_of_all_else_refuses() -> None:
    named = Harmonise(kind="zscore", groups=(("GE", 100.0, 50.0), ("SIEMENS", 700.0, 350.0)))
    harmonise = harmoniser_of(named)
    assert np.allclose(harmonise(sample(), "GE").values, harmonise(sample(7.0), "SIEMENS").values, atol=1e-5)
    with pytest.raises(UnreadableImage) as caught:
        harmonise(sample(), "OTHER")
    assert caught.value.reason == "no-scale"
    everyone = harmoniser_of(Harmonise(kind="zscore", groups=(("ALL", 100.0, 50.0),)))
    values = everyone(sample(), "OTHER").values
    assert values.min() >= 0
    assert values.max() == 1.0  # the tail beyond four scales
    assert np.median(values) == pytest.approx(0.5, abs=0.1)


def test_combat_uses_the_training_images_of_the_same_vendor_only() -> None:
    constants = tuple(float(x) for x in [*([0.1] * F), *([0.05] * F), *([0.0] * F)])
    settings = Harmonise(kind="combat", constants=constants, intensity_high=1000.0)
    known = [(sample(1 + vendor, seed), ("GE", "SIEMENS")[vendor], seed % 2) for vendor in (0, 1) for seed in range(20)]
    harmonise = harmoniser_of(settings, lambda: known)
    model = CombatModel.of(constants)
    rows = np.stack([image_features(s.measured, 0, 1000) for s, vendor, _ in known if vendor == "GE"])
    batch = model.batch(rows, [seed % 2 for seed in range(20)])
    ours = harmonise(sample(), "GE")
    assert ours.columns == FEATURES
    assert np.allclose(
        ours.values, model.adjusted(image_features(sample().measured, 0, 1000)[None], batch)[0], atol=1e-6
    )
    means = [
        np.mean([harmonise(sample(1 + v, seed), ("GE", "SIEMENS")[v]).values for seed in range(20)], 0) for v in (0, 1)
    ]
    assert np.abs(means[0] - means[1]).max() < 0.02
    with pytest.raises(UnreadableImage):
        harmonise(sample(), "PHILIPS")
    with pytest.raises(JobError):
        harmoniser_of(Harmonise(kind="combat", constants=(1.0,) * 10))


JOB = """
[job]
name = "tiny"
rounds = 1
[task]
kind = "{task}"
model = "logistic"
dataset = "toy"
classes = ["no", "yes"]
{more}
[privacy]
noise = "none"
[harmonise]
{harmonise}
"""


def job_of(task: str, more: str, harmonise: str) -> Job:
    return parse_job(JOB.format(task=task, more=more, harmonise=harmonise))


def test_training_gets_harmonised_images_and_rows_of_features(tmp_path: Path) -> None:
    catalogue = toy_catalogue(tmp_path)
    images = job_of("classification", "shape = [8, 8]", f'kind = "nyul"\nlandmarks = {list(LANDMARKS)}')
    plain = images.model_copy(update={"harmonise": None})
    four = torch.arange(4)
    inputs = local_data(catalogue, images, make_task(images.task), Memory(2**20)).train.batch(four)["image"]
    before = local_data(catalogue, plain, make_task(plain.task), Memory(2**20)).train.batch(four)["image"]
    assert inputs.shape == before.shape
    assert not np.allclose(inputs, before)
    columns = ", ".join(f'{{name = "{name}"}}' for name in FEATURES)
    for harmonise in ('kind = "features"', f'kind = "combat"\nconstants = {[0.3] * F + [0.1] * F + [0.0] * F}'):
        rows = job_of("tabular", f"columns = [{columns}]", harmonise + "\nintensity_high = 1.0")
        data = local_data(catalogue, rows, make_task(rows.task), Memory(2**20))
        assert data.train.batch(four)["features"].shape[0] == 4
        assert not data.left_out


def test_sections_that_do_not_fit_are_refused() -> None:
    for harmonise, reason in (
        ('kind = "nyul"', "expected landmarks"),
        ('kind = "zscore"\nlandmarks = [0.0, 1.0]\ngroups = [["ALL", 0.0, 1.0]]', "no landmarks"),
        (f'kind = "nyul"\nlandmarks = {list(reversed(LANDMARKS))}', "rising"),
        ('kind = "zscore"\ngroups = [["ALL", 0.0, 0.0]]', "greater than or equal"),
        ('kind = "features"\nintensity_low = 9.0\nintensity_high = 1.0', "below"),
    ):
        with pytest.raises(JobError, match=reason):
            job_of("classification", "shape = [8, 8]", harmonise)
    columns = ", ".join(f'{{name = "{name}"}}' for name in FEATURES)
    good = JOB.format(
        task="tabular", more=f"columns = [{columns}]", harmonise=f'kind = "combat"\nconstants = {[1.0] * 3 * F}'
    )
    parse_job(good)
    for old, new, reason in (
        ('noise = "none"', 'noise = "local"', "nyul"),
        (str([1.0] * 3 * F), str([1.0] * 4 * F), "27 constants"),
        (str([1.0] * 3 * F), str([1.0] * 2 * F + [0.0] * F), ""),
        (str([1.0] * 3 * F), str([0.0] * 3 * F), "positive scales"),
        ('name = "mean"', 'name = "age"', "task.columns from"),
        ('dataset = "toy"', 'dataset = "toy"\nshape = [8, 8]', r"no task\.shape"),
    ):
        assert old in good
        if reason:
            with pytest.raises(JobError, match=reason):
                parse_job(good.replace(old, new))
        else:
            parse_job(good.replace(old, new))  # effects of a class may be nothing
