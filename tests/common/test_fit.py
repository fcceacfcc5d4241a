"""A job against a declaration: what does not fit is said with both spellings, and what fits is never refused."""

import json

import pytest
from tests.builders import tiny_job

from salus.common.declaration import Declaration, DeclaredColumn, DeclaredTarget
from salus.common.errors import UnfitError, WireError
from salus.common.fit import problems_of, require_fit
from salus.common.job import Job, parse_job
from salus.common.tasks.classification import Classification
from salus.common.verdict import MAX_PROBLEMS, Verdict, read_verdict

IMAGES = Declaration(kind="images", classes=("no", "yes"), dimensions=(2,), channels=(1,), modalities=("DX",))
TABLE = Declaration(
    kind="table",
    classes=("absent", "present"),
    columns=(DeclaredColumn(name="age", unit="years"), DeclaredColumn(name="chol")),
    min_patients=20,
)
TABULAR = """
[job]
name = "heart"
rounds = 1
[task]
kind = "tabular"
model = "logistic"
dataset = "heart"
classes = ["absent", "present"]
[[task.columns]]
name = "age"
"""
STATISTICS = """
[job]
name = "look"
rounds = 1
[task]
dataset = "toy"
classes = ["no", "yes"]
[privacy]
noise = "none"
[statistics]
kind = "summary"
"""


def task(**changes: object) -> Job:
    job = tiny_job()
    return job.model_copy(update={"task": job.task.model_copy(update=changes)})


def texts(job: Job, declared: Declaration | None = IMAGES, name: str = "toy") -> list[tuple[str, str]]:
    return [(problem.requirement, problem.text) for problem in problems_of(job, {name: declared})]


def test_a_job_that_fits_is_never_refused() -> None:
    require_fit(tiny_job(), {"toy": IMAGES})
    require_fit(tiny_job(), {"toy": IMAGES.model_copy(update={"classes": ("0", "1", "2")})})  # labels may be numbers
    require_fit(parse_job(TABULAR), {"heart": TABLE})
    require_fit(parse_job(STATISTICS), {"toy": IMAGES.model_copy(update={"min_patients": 5})})
    wide = IMAGES.model_copy(update={"classes": ("maybe", "no", "yes"), "dimensions": (2, 3), "channels": (1, 3)})
    require_fit(tiny_job(), {"toy": wide})


@pytest.mark.parametrize(
    ("job", "requirement", "said"),
    [
        (task(dataset="toi"), "data set", ("'toi'", "'toy'")),
        (task(classes=("no", "yess")), "classes", ("'yess'", "'yes'")),
        (task(classes=("no", "yes", "dummy")), "classes", ("'dummy'", "'no', 'yes'")),
        (task(shape=(8, 8, 8)), "images", ("3-D", "2-D")),
        (task(channels=3), "images", ("3 channel(s)", "1")),
        (task(modality="CT"), "modality", ("CT", "DX")),
        (parse_job(TABULAR.replace("heart", "toy").replace("absent", "no").replace("present", "yes")), "columns", ()),
        (parse_job(STATISTICS + 'modalities = ["CT"]\nmin_patients = 1'), "modality", ("'CT'", "'DX'")),
        (parse_job(STATISTICS + "min_patients = 30"), "patients", ("30", "at least 1")),
    ],
)
def test_what_does_not_fit_is_named_with_both_spellings(job: Job, requirement: str, said: tuple[str, ...]) -> None:
    ((found, text),) = texts(job)
    assert found == requirement
    for part in said:
        assert part in text
    with pytest.raises(UnfitError, match="salus dataset declare"):
        require_fit(job, {"toy": IMAGES})


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ('name = "agee"', ("'agee'", "'age'")),
        ('name = "age"\nunit = "months"', ("'months'", "'years'")),
        ('name = "chol"\nunit = "mg/dl"', ("'mg/dl'", "not declared")),
    ],
)
def test_columns_and_their_units(column: str, said: tuple[str, ...]) -> None:
    ((requirement, text),) = texts(parse_job(TABULAR.replace('name = "age"', column)), TABLE, "heart")
    assert requirement == "columns"
    for part in said:
        assert part in text


def test_what_is_not_declared_or_not_labelled_with_classes_runs_no_job() -> None:
    ((requirement, text),) = texts(tiny_job(), None)
    assert (requirement, "not declared" in text) == ("data set", True)
    measured = IMAGES.model_copy(update={"annotations": ("measurement",), "classes": ()})
    assert [requirement for requirement, _ in texts(tiny_job(), measured)] == ["labels"]
    assert "has none" in problems_of(tiny_job(), {})[0].text


def test_a_text_shows_no_control_character_of_a_job() -> None:
    ((_, text),) = texts(task(classes=("no", "\x1b[2Jyes\u202e")))
    assert text.isprintable()


def test_image_features_need_images_not_columns_of_a_table() -> None:
    job = parse_job(
        TABULAR.replace('"age"', '"mean"') + '[privacy]\nnoise = "none"\n[[task.transforms]]\nkind = "features"\n'
    )
    declared = IMAGES.model_copy(update={"classes": ("absent", "present")})
    assert problems_of(job, {"heart": declared}) == []
    assert [problem.requirement for problem in problems_of(job, {"heart": TABLE})] == ["images"]


def test_a_verdict_travels_and_garbage_does_not() -> None:
    verdict = Verdict(
        problems=tuple(problems_of(task(channels=3), {"toy": IMAGES})), declarations={"toy": IMAGES, "x": None}
    )
    assert read_verdict(verdict.encode()) == verdict
    assert not verdict.fits
    for data in (b"", b"[]", b"\xff", b"[" * 10**5, json.dumps({"problems": [{"requirement": "x", "text": ""}]}).encode(),
                 b" " * 5_000_000):  # fmt: skip
        with pytest.raises(WireError):
            read_verdict(data)


def test_a_job_of_many_wrong_columns_costs_a_site_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 000 wrong columns against 10 000 declared ones kept a site busy for hours before it refused."""
    compared: list[int] = []

    def counted(word: str, possibilities: list[str], **_: object) -> list[str]:
        compared.append(len(possibilities))
        return []

    monkeypatch.setattr("salus.common.fit.difflib.get_close_matches", counted)
    columns = ", ".join(f'{{name = "wrong {number}"}}' for number in range(3000))
    job = parse_job(
        f'[job]\nname = "x"\nrounds = 1\n[task]\nkind = "tabular"\nmodel = "logistic"\ndataset = "t"\nclasses = ["a", "b"]\n'
        f"columns = [{columns}]"
    )
    have = tuple(DeclaredColumn(name=f"column {number}") for number in range(3000))
    assert len(problems_of(job, {"t": Declaration(kind="table", classes=("a", "b"), columns=have)})) == MAX_PROBLEMS
    assert sum(compared) <= MAX_PROBLEMS * 1000


def test_a_job_on_masks_is_matched_by_the_mask_and_its_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classification, "annotations", {"mask": "mask"}, raising=False)
    masks = DeclaredTarget(name="mask", kind="mask", names=("anterior", "yes", "no"))
    declared = IMAGES.model_copy(update={"annotations": ("mask",), "classes": (), "targets": (masks,)})
    assert texts(tiny_job(), declared) == []
    ((requirement, text),) = texts(task(classes=("no", "yess")), declared)
    assert requirement == "classes"
    assert "'yess'" in text
    assert "did it mean 'yes'" in text
    ((requirement, text),) = texts(tiny_job(), IMAGES)
    assert (requirement, "a mask named 'mask', but 'toy' has none" in text) == ("annotations", True)
    boxes = declared.model_copy(update={"targets": (DeclaredTarget(name="mask", kind="boxes", names=("yes", "no")),)})
    assert [requirement for requirement, _ in texts(tiny_job(), boxes)] == ["annotations"]
    numbered = declared.model_copy(update={"targets": (masks.model_copy(update={"names": ("1", "2")}),)})
    assert texts(tiny_job(), numbered) == []  # structure 1 stands for the job's first
    assert [requirement for requirement, _ in texts(task(classes=("a", "b", "c")), numbered)] == ["classes"]


def test_names_for_numbered_labels_keep_their_order() -> None:
    """A job with the classes the other way round would train on exchanged labels without any other sign."""
    numbered = IMAGES.model_copy(update={"numbered": True})
    require_fit(tiny_job(), {"toy": numbered})
    ((requirement, text),) = texts(task(classes=("yes", "no")), numbered)
    assert requirement == "classes"
    assert "exchange" in text
    assert "'no', 'yes'" in text
    require_fit(task(classes=("yes", "no")), {"toy": IMAGES})  # labels that are names have no order
    ((_, text),) = texts(task(classes=("no", "yess")), numbered)
    assert "'yess' is not a class" in text
