"""Whether a chain gives what a task takes, without data."""

import pytest

from salus.common.errors import JobError
from salus.common.job import Job, parse_job
from salus.common.sums.questions import questions_of
from salus.common.tasks import make_task
from salus.common.transforms.checks import check_chain, shown_fields
from salus.server.checks import check_job

JOB = """
[job]
name = "x"
rounds = 1
{more}
[task]
dataset = "d"
classes = ["a", "b"]
{task}
"""
IMAGES = 'kind = "classification"\nmodel = "cnn"\nshape = [16, 16]\n'
ROWS = 'kind = "tabular"\nmodel = "logistic"\ncolumns = [{name = "mean"}, {name = "edge"}]\n'
COMBAT = f'[[task.transforms]]\nkind = "combat"\nconstants = {[1.0] * 27}\n'
PLAIN = '[privacy]\nnoise = "none"\n'


def job(task: str, more: str = PLAIN) -> Job:
    return parse_job(JOB.format(task=task, more=more))


def steps(*entries: str) -> str:
    return "".join(f"[[task.transforms]]\n{entry}\n" for entry in entries)


def check(task: str) -> list[str]:
    return [f"{stage.name}: {shown_fields(stage.spec)}" for stage in check_chain(make_task(job(task).task))]


def test_without_transforms_the_own_chain_is_shown() -> None:
    assert check(IMAGES) == ["transforms[0] resize: image 1 x 16 x 16", "transforms[1] rescale: image 1 x 16 x 16"]
    assert check(ROWS) == []


def test_each_step_says_what_it_gives() -> None:
    found = check(IMAGES + steps('kind = "spacing"\nmm = [1.0, 1.0]', 'kind = "center-crop"', 'kind = "rotate"'))
    assert found == [
        "transforms[0] spacing: image 1 x ? x ?",
        "transforms[1] center-crop: image 1 x 16 x 16",
        "transforms[2] rotate: image 1 x 16 x 16",
    ]


def test_features_of_images_become_a_row() -> None:
    found = check(ROWS + steps('kind = "window"\nlow = 0.0\nhigh = 9.0', 'kind = "features"'))
    assert found[1] == "transforms[1] features: features 2"


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            IMAGES + steps('kind = "spacing"\nmm = [1.0, 1.0]'),
            r"transforms\[0\] spacing: the sides of 'image' still depend",
        ),
        (IMAGES + steps('kind = "orientation"', 'kind = "resize"'), r"transforms\[0\] orientation: expected volumes"),
        (IMAGES + steps('kind = "resize"\nsize = [8, 9]'), r"transforms\[0\] resize: expected 'image' of 1 x 16 x 16"),
        (
            IMAGES + steps('kind = "random-crop"'),
            r"in evaluation, where random steps are left out, the sides of 'image'",
        ),
        (
            IMAGES + steps('kind = "random-crop"\naround = "classes"'),
            r"transforms\[0\] random-crop: expected a mask 'mask'",
        ),
        (IMAGES + steps('kind = "features"'), r"transforms\[0\] features: expected no task\.shape"),
        (IMAGES + "copies = 4", r"expected copies = 1, got 4: no transform is random"),
        (ROWS + steps('kind = "resize"'), r"transforms\[0\] resize: Expected images, got a table"),
    ],
)
def test_a_chain_that_does_not_fit_is_refused_before_any_data(task: str, said: str) -> None:
    for place in (lambda: check(task), lambda: check_job(job(task), 5)):
        with pytest.raises(JobError, match=said):
            place()


def test_a_transform_that_depends_on_other_patients_is_refused_with_noise() -> None:
    job(ROWS + COMBAT)
    with pytest.raises(JobError, match=r'noise = "none" with transforms\[0\] combat.*"nyul" or "zscore"'):
        job(ROWS + COMBAT, '[privacy]\nnoise = "local"\n')


def test_statistics_have_only_transforms_that_do_the_same_at_every_use_and_site() -> None:
    with pytest.raises(JobError, match="not fixed"):
        job(steps('kind = "rotate"'), PLAIN + '[statistics]\nkind = "summary"\n')
    assert job(steps('kind = "resize"'), PLAIN + '[statistics]\nkind = "summary"\n').task.transforms


def test_jobs_may_differ_in_what_leaves_no_image_out() -> None:
    """A difference of two sums would otherwise show those that were left out."""

    def asked(*entries: str) -> str:
        return questions_of(job(IMAGES + steps(*entries, 'kind = "resize"')), 5)["training: task.transforms"]

    assert asked() == asked('kind = "rotate"')
    spaced = [asked(f'kind = "spacing"\nmm = [{mm}, 1.0]') for mm in (1.0, 2.0)]
    assert len({asked(), *spaced, asked('kind = "zscore"\ngroups = [["GE", 0.0, 1.0]]')}) == 4


def test_patches_are_for_tasks_that_predict_images_of_any_size() -> None:
    task = 'kind = "segmentation"\nmodel = "unet"\nshape = [16, 16, 16]\n'
    found = check(task + steps('kind = "spacing"\nmm = [1.0, 1.0, 1.0]', 'kind = "random-crop"\naround = "classes"'))
    assert found == [
        "transforms[0] spacing: image 1 x ? x ? x ?, mask 1 x ? x ? x ?",
        "transforms[1] random-crop: image 1 x 16 x 16 x 16, mask 1 x 16 x 16 x 16",
    ]
