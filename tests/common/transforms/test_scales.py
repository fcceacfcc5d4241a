"""Common scales and features of images from several scanners."""

import numpy as np
import pytest
from pydantic import ValidationError
from tests.common.transforms.worlds import make, task

from salus.common.batch import Field
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.job_statistics import Column
from salus.common.sums.combat import CombatModel
from salus.common.sums.features import FEATURES, image_features
from salus.common.transforms import TRANSFORMS
from salus.common.transforms.base import Fitted
from salus.common.transforms.chain import Chain

LANDMARKS = tuple(float(x) for x in np.linspace(0, 1, 11))
F = len(FEATURES)
CONSTANTS = tuple(float(x) for x in [*([0.1] * F), *([0.05] * F), *([0.0] * F)])


def scan(scale: float = 1.0, seed: int = 0, vendor: str = "GE") -> Example:
    picture = np.random.default_rng(seed).gamma(2, 50, size=(1, 32, 32)).astype(np.float32) * np.float32(scale)
    return Example({"image": picture, "label": np.array(1)}, frozenset({"image"}), facts={"vendor": vendor})


def table(*names: str, shape: tuple[int, ...] = ()) -> TaskSettings:
    columns = tuple(Column(name=name) for name in names or FEATURES)
    return TaskSettings(kind="tabular", model="logistic", dataset="d", classes=("a", "b"), columns=columns, shape=shape)


def test_nyul_undoes_a_vendors_scale() -> None:
    step = make("nyul", landmarks=LANDMARKS, to_low=0.0)
    one, other = step(scan(), None)["image"], step(scan(7.0), None)["image"]
    assert one.std() > 0.1
    assert np.allclose(one, other, atol=1e-5)
    assert one.dtype == np.float32
    assert one.min() >= 0


def test_zscore_uses_the_vendors_scale_else_that_of_all_else_refuses() -> None:
    step = make("zscore", groups=(("GE", 100.0, 50.0), ("SIEMENS", 700.0, 350.0)))
    assert np.allclose(step(scan(), None)["image"], step(scan(7.0, vendor="SIEMENS"), None)["image"], atol=1e-5)
    with pytest.raises(UnreadableImage) as caught:
        step(scan(vendor="OTHER"), None)
    assert caught.value.reason == "no-scale"
    values = make("zscore", groups=(("ALL", 100.0, 50.0),))(scan(vendor="OTHER"), None)["image"]
    assert values.min() >= -1
    assert values.max() == 1.0  # the tail beyond four scales
    assert np.median(values) == pytest.approx(0.0, abs=0.2)


def test_features_become_the_jobs_columns_by_name() -> None:
    step = make("features", table("edge", "mean"), intensity_high=1000.0)
    expected = image_features(scan()["image"], 0, 1000)
    assert expected is not None
    row = step(scan(), None)
    assert row["features"] == pytest.approx([expected[8], expected[0]])
    assert set(row.fields) == {"features", "label"}
    assert not row.spatial
    spec = step.spec({"image": Field((1, -1, -1), spatial=True), "label": Field((), "int64")})
    assert {name: field.shape for name, field in spec.items()} == {"features": (2,), "label": ()}


def test_an_image_that_is_not_finite_has_no_features() -> None:
    broken = scan().with_fields(image=np.full((1, 4, 4), np.nan, np.float32))
    with pytest.raises(UnreadableImage, match="no-features"):
        make("features", table())(broken, None)


@pytest.mark.parametrize("settings", [table("mean", "age"), table("mean", shape=(8, 8)), task()])
def test_features_need_columns_of_their_names(settings: TaskSettings) -> None:
    with pytest.raises(JobError, match=r"no task\.shape and only task\.columns from mean, sd"):
        make("features", settings)


def test_combat_uses_the_training_images_of_the_same_vendor_only() -> None:
    known = [(scan(1 + v, seed, ("GE", "SIEMENS")[v]), seed % 2) for v in (0, 1) for seed in range(20)]
    fresh = make("combat", table(), constants=CONSTANTS, intensity_high=1000.0)
    assert isinstance(fresh, Fitted)
    step = fresh.learned(known)
    model = CombatModel.of(CONSTANTS)
    rows = np.stack([image_features(e["image"], 0, 1000) for e, _ in known[:20]])  # type: ignore[arg-type,misc]
    batch = model.batch(rows, [seed % 2 for seed in range(20)])
    ours = step(scan(), None)["features"]
    assert np.allclose(ours, model.adjusted(rows[:1], batch)[0], atol=1e-6)
    means = [np.mean([step(e, None)["features"] for e, _ in known[20 * v : 20 * v + 20]], 0) for v in (0, 1)]
    assert np.abs(means[0] - means[1]).max() < 0.02
    for unknown in (step(scan(), None) and step, fresh):
        with pytest.raises(UnreadableImage, match="no-batch"):
            unknown(scan(vendor="PHILIPS"), None)


def test_a_chain_learns_from_the_images_as_its_steps_find_them() -> None:
    """The window before ComBat changes the features that its batches are learned from."""
    window = TRANSFORMS.get("window").Settings(low=0.0, high=100.0, to_low=0.0, to_high=1.0)
    combat = TRANSFORMS.get("combat").Settings(constants=CONSTANTS, intensity_high=1.0)
    chain = Chain.of([window, combat], table())
    known = [(scan(seed=seed), seed % 2) for seed in range(10)]
    asked = []
    learned = chain.learned(lambda: asked.append(1) or known)
    assert asked == [1]
    step = chain.steps[1]
    assert isinstance(step, Fitted)
    expected = step.learned([(chain.steps[0](example, None), target) for example, target in known])
    windowed = chain.steps[0](scan(), None)
    assert np.array_equal(learned.prefix(scan())["features"], expected(windowed, None)["features"])
    assert chain.key() is None
    plain = Chain.of([window], task())
    assert plain.learned(lambda: pytest.fail("a chain that needs no images read them")) is plain


@pytest.mark.parametrize(
    ("kind", "own", "reason"),
    [
        ("nyul", {}, "landmarks"),
        ("nyul", {"landmarks": LANDMARKS[::-1]}, "rising"),
        ("nyul", {"landmarks": (0.5,) * 11}, "rising"),
        ("nyul", {"landmarks": LANDMARKS[:10]}, "at least 11"),
        ("zscore", {}, "groups"),
        ("zscore", {"groups": (("ALL", 0.0, 0.0),)}, "greater than or equal"),
        ("zscore", {"groups": (("SEIMENS", 0.0, 1.0),)}, "SIEMENS"),
        ("features", {"intensity_low": 9.0, "intensity_high": 1.0}, "below"),
    ],
)
def test_settings_that_make_no_scale_are_refused(kind: str, own: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        make(kind, table(), **own)


def test_constants_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(JobError, match="expected 27 constants for 2 classes, got 36"):
        make("combat", table(), constants=(1.0,) * 4 * F)
    with pytest.raises(JobError, match="positive scales"):
        make("combat", table(), constants=(0.0,) * 3 * F)
    make("combat", table(), constants=(1.0,) * 2 * F + (0.0,) * F)  # effects of a class may be nothing
