"""One question about each quantity: what makes two jobs of exact statistics ask differently."""

import pytest
from tests.common.sums.builders import job_of
from tests.server.test_measuring import JOB

from salus.common.canonical import canonical_json
from salus.common.errors import JobError
from salus.common.job import Job, parse_job
from salus.common.sums.questions import questions_of
from salus.common.transforms import TRANSFORMS


def asked(kind: str = "summary", columns: str = "", bins: int = 16) -> Job:
    text = JOB.replace('classes = ["no", "yes"]', f'classes = ["no", "yes"]\n{columns}').replace(
        "bins = 16", f"bins = {bins}"
    )
    # The text is a template, so braces of columns stand double.
    return parse_job(
        text.format(rounds=1, kind=kind, protection="masking", privacy='noise = "none"', least=5, holder="")
    )


def test_a_column_is_asked_about_once_in_a_job() -> None:
    """Finding E: listed 400 times with shifted scales, a column showed 23 intervals of one patient each."""
    shifted = ", ".join(f'{{{{name = "age", centre = {50 + shift / 10}, scale = 10.0}}}}' for shift in range(3))
    with pytest.raises(JobError, match="expected every column only once"):
        asked(columns=f"columns = [{shifted}]")


def test_other_bins_scales_and_limits_are_other_questions_and_equal_ones_are_equal() -> None:
    age = 'columns = [{{name = "age", centre = %s, scale = 10.0}}]'
    first = questions_of(asked(columns=age % 50.0), 5)
    assert set(first) == {"summary: labels", "summary: column age"}
    assert first == questions_of(asked(columns=age % 50.0), 5)
    for other in (
        questions_of(asked(columns=age % 50.5), 5),
        questions_of(asked(columns=age % 50.0, bins=17), 5),
        questions_of(asked(columns=age % 50.0), 6),
    ):
        assert other["summary: column age"] != first["summary: column age"]
    assert set(questions_of(asked(), 5)) == {"summary: labels", "summary: intensities"}
    assert set(questions_of(asked("quantiles"), 5)) == {"quantiles"}
    assert questions_of(asked("quantiles"), 5) != questions_of(asked("quantiles", bins=17), 5)


def training(kind: str, task: str, *steps: str, more: str = "") -> Job:
    model = {"segmentation": "unet", "tabular": "logistic"}.get(kind, "cnn")
    text = f'[job]\nname = "j"\nrounds = 1\n[task]\nkind = "{kind}"\nmodel = "{model}"\ndataset = "d"\n{task}\n'
    return parse_job(
        text + "".join(f"[[task.transforms]]\n{s}\n" for s in steps) + f'{more}\n[privacy]\nnoise = "none"\n'
    )


IMAGES = 'shape = [32, 32]\nclasses = ["a", "b", "c"]'
VOLUMES = 'shape = [32, 32, 32]\nclasses = ["a", "b"]'
RESIZE = 'kind = "resize"'
IMPLANT = 'kind = "window"\nlow = -1000.0\nhigh = '
# (kind, one job, another): the images on which both do the same are not in the difference of their sums.
SELECTIVE = [
    ("multilabel", [IMAGES], [IMAGES + '\nno_finding = ["No Finding", "hernia"]']),  # those with the added label
    ("classification", [IMAGES], [IMAGES.replace('"b", "c"', '"c", "b"')]),  # those of the exchanged classes
    ("classification", [IMAGES], [IMAGES + "\nclass_weights = [1.0, 1.0, 2.0]"]),  # those of a rare class
    ("classification", [IMAGES], [IMAGES + '\nsampling = "balanced"']),  # those of a rare class
    ("classification", [IMAGES], [IMAGES + '\nsampling = "hard"']),  # those that one model gets wrong
    ("classification", [IMAGES], [IMAGES + "\nmixup = 0.2"]),  # all but those that are alone in their batch
    ("classification", [IMAGES], [IMAGES + '\nclass_loss = "focal"']),  # those that are wrong, and not the others
    ("segmentation", [VOLUMES], [VOLUMES + "\nclass_weights = [1.0, 1.0, 2.0]"]),
    ("segmentation", [VOLUMES], [VOLUMES + "\nmulti_label = true"]),  # those whose structures overlap
    ("segmentation", [VOLUMES], [VOLUMES + '\nplane = "axial"']),  # those of another plane
    ("regression", ['shape = [32, 32]\nclasses = ["a"]'], ['shape = [32, 32]\nclasses = ["a"]\nhigh = 2.0']),
    ("regression", ['shape = [32, 32]\nclasses = ["a"]'], ['shape = [32, 32]\nclasses = ["a"]\nsmoothness = 0.2']),
    ("classification", [IMAGES, IMPLANT + "3000.0", RESIZE], [IMAGES, IMPLANT + "3050.0", RESIZE]),
    (
        "classification",
        [IMAGES, 'kind = "crop-foreground"\nabove = 0.9', RESIZE],
        [IMAGES, 'kind = "crop-foreground"\nabove = 0.91', RESIZE],
    ),
    (
        "classification",
        [IMAGES, 'kind = "pad"\nsize = [512, 512]', RESIZE],
        [IMAGES, 'kind = "pad"\nsize = [513, 512]', RESIZE],
    ),
    ("classification", [IMAGES, 'kind = "center-crop"'], [IMAGES.replace("32, 32", "33, 32"), 'kind = "center-crop"']),
    ("classification", [IMAGES, 'kind = "random-crop"'], [IMAGES, 'kind = "random-crop"\nvalue = 1.0']),
    ("classification", [IMAGES, RESIZE], [IMAGES, RESIZE, 'kind = "percentiles"\nnonzero = true']),
    ("classification", [IMAGES, 'kind = "center-crop"'], [IMAGES, RESIZE]),  # settings alone, kind apart, are the same
]
ALIKE = [
    ("classification", [IMAGES, RESIZE], [IMAGES, RESIZE, 'kind = "rotate"', 'kind = "gamma"\nprobability = 0.5']),
    ("classification", [IMAGES, RESIZE], [IMAGES.replace("32, 32", "64, 64"), RESIZE]),
    ("classification", [IMAGES, 'kind = "flip"'], [IMAGES + "\ncopies = 4", 'kind = "flip"']),
    ("segmentation", [VOLUMES], [VOLUMES + '\nloss = "tversky"\nfalse_positive_weight = 0.4']),
]


@pytest.mark.parametrize(("kind", "one", "other"), SELECTIVE)
def test_training_that_treats_some_images_otherwise_is_another_question(
    kind: str, one: list[str], other: list[str]
) -> None:
    assert questions_of(training(kind, *one), 5) == questions_of(training(kind, *one), 5)
    assert questions_of(training(kind, *one), 5) != questions_of(training(kind, *other), 5)


@pytest.mark.parametrize(("kind", "one", "other"), ALIKE)
def test_training_may_differ_in_what_acts_on_every_image_alike(kind: str, one: list[str], other: list[str]) -> None:
    first, second = training(kind, *one), training(kind, *other)
    assert first.task != second.task
    assert questions_of(first, 5) == questions_of(second, 5)


def test_only_random_changes_are_known_to_act_alike() -> None:
    """A new transform is not, unless somebody has looked."""
    alike = {name for name in TRANSFORMS.names() if TRANSFORMS.get(name).alike}
    assert alike == {
        "affine", "brightness", "cutout", "elastic", "flip", "gamma", "gaussian-blur", "gaussian-noise", "histogram-shift",
        "rotate", "zoom",
    }  # fmt: skip
    assert all(TRANSFORMS.get(name).random for name in alike)


def test_what_older_versions_have_remembered_is_compared_as_before() -> None:
    """Questions are on disk at the sites; an entry that changes its text would refuse every job of the epoch."""
    job = training("classification", IMAGES, 'kind = "spacing"\nmm = [1.0, 1.0]', RESIZE)
    found = questions_of(job, 5)
    assert found["training: task.classes"] == canonical_json([["a", "b", "c"]]).decode()
    assert found["training: task.transforms"] == canonical_json([[{"mm": [1.0, 1.0]}]]).decode()


SGD = '[training]\noptimizer = "sgd"\n'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SGD, SGD + "momentum = 0.5"),
        ("", "[training]\nweight_decay = 0.01"),
        ("", '[aggregation]\nstrategy = "fedprox"'),
        ('[aggregation]\nstrategy = "fedprox"', '[aggregation]\nstrategy = "fedprox"\nproximal = 0.2'),
        (SGD + "momentum = 0.0", SGD + 'momentum = 0.0\n[aggregation]\nstrategy = "scaffold"\nlocal_steps = 1'),
    ],
)
def test_what_only_sites_of_several_batches_feel_is_another_question(one: str, other: str) -> None:
    """With a batch that only the largest site exceeds, the difference of two sums would be this site's."""
    assert questions_of(training("classification", IMAGES, more=one), 5) != questions_of(
        training("classification", IMAGES, more=other), 5
    )


@pytest.mark.parametrize(
    "other", [SGD, "[training]\nlearning_rate = 0.5", '[aggregation]\nstrategy = "fedavgm"\nserver_momentum = 0.5']
)
def test_the_optimizer_the_step_and_the_servers_half_may_differ(other: str) -> None:
    assert questions_of(training("classification", IMAGES), 5) == questions_of(
        training("classification", IMAGES, more=other), 5
    )


def test_another_seed_of_random_trees_is_another_question_and_of_clusters_is_not() -> None:
    for kind, differs in (("forest", True), ("random-boosting", True), ("boosting", False), ("kmeans", False)):
        job = asked(kind, columns='columns = [{{name = "age"}}]')
        other = job.model_copy(update={"job": job.job.model_copy(update={"seed": 7})})
        assert (questions_of(job, 5) != questions_of(other, 5)) == differs


WINDOWED = 'shape = [8, 8, 8]\n[[task.transforms]]\nkind = "window"\nlow = 0.0\nhigh = 100.0\n'


@pytest.mark.parametrize(
    "other",
    [
        "",  # without steps every image is counted
        WINDOWED.replace("8, 8, 8", "8, 8"),
        WINDOWED.replace("[8, 8, 8]", "[8, 8, 8]\nchannels = 3"),
        WINDOWED.replace("[8, 8, 8]", '[8, 8, 8]\nplane = "axial"'),
    ],
)
@pytest.mark.parametrize("kind", ["summary", "quantiles"])
def test_statistics_that_take_other_images_are_another_question_about_everything(kind: str, other: str) -> None:
    """A step leaves out images of another plane, number of sides or channels; the others are in the difference."""
    first, second = questions_of(job_of(kind, task=WINDOWED), 5), questions_of(job_of(kind, task=other), 5)
    assert first == questions_of(job_of(kind, task=WINDOWED), 5)
    assert all(first[name] != second[name] for name in first)


def test_the_pooling_of_bags_is_another_question_as_bags_of_one_image_do_not_feel_it() -> None:
    text = '[job]\nname = "j"\nrounds = 1\n[task]\nkind = "multi-instance"\nmodel = "bag"\ndataset = "d"\n'
    text += 'shape = [32, 32]\nclasses = ["a", "b"]\npooling = "{}"\n{}[privacy]\nnoise = "none"\n'
    mean = questions_of(parse_job(text.format("mean", "")), 5)
    assert mean != questions_of(parse_job(text.format("max", "")), 5)
    assert mean == questions_of(parse_job(text.format("mean", "feature_width = 24\n")), 5)
