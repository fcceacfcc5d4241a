from pathlib import Path

from tests.builders import tiny_job

from salus.common.estimates import Estimate
from salus.common.job import Job, load_job, parse_job
from salus.server.exactness import _about, exactness, foretold

JOBS = Path(__file__).parents[2] / "simulations" / "jobs"


def default_private_job() -> Job:
    job = load_job(JOBS / "pneumonia-private.toml")
    privacy = {name: value for name, value in job.privacy.model_dump().items() if name in ("noise", "sampling_rate")}
    return job.model_copy(update={"privacy": type(job.privacy)(**privacy, patients_per_site=600)})


def test_five_sites_of_600_know_their_auc_to_three_hundredths_with_the_default_epsilon() -> None:
    text = exactness(default_private_job(), 5)
    assert text.startswith("The final AUC will be known to about +- 0.03 and the accuracy to about")
    assert text.endswith("with 5 sites of 600 patients, 120 of them for validation.")


def test_more_sites_know_more_and_few_say_that_they_know_nothing() -> None:
    job = default_private_job()
    few, many = foretold(job, 5)["auc"].standard_error, foretold(job, 20)["auc"].standard_error
    assert few is not None
    assert many is not None
    assert many < 0.75 * few
    tiny = job.model_copy(update={"privacy": job.privacy.model_copy(update={"patients_per_site": 20})})
    assert "too noisy to say" in exactness(tiny, 3)


def test_jobs_without_noise_or_without_an_evaluation() -> None:
    assert exactness(tiny_job(), 5) == ""
    assert "evaluation_share is 0" in exactness(tiny_job(privacy="evaluation_share = 0.0"), 5)


def test_a_segmentation_hears_about_its_dice_and_no_auc() -> None:
    job = load_job(JOBS / "hippocampus-private.toml")
    training = job.training.model_copy(update={"validation_fraction": 0.2})
    for patients, expected in (
        (8, "The final mean Dice will be too noisy to say"),
        (300, "The final mean Dice will be known to about +- 0.02"),
    ):
        privacy = job.privacy.model_copy(update={"evaluation_share": 0.2, "patients_per_site": patients})
        text = exactness(job.model_copy(update={"training": training, "privacy": privacy}), 5)
        assert text.startswith(expected)
        assert "AUC" not in text


def test_a_job_hears_how_exact_its_subgroups_will_be() -> None:
    job = default_private_job()
    named = parse_job(
        'job = { name = "x", rounds = 1 }\ntask = { dataset = "d", kind = "classification", model = "cnn", shape = [28, 28], '
        'classes = ["a", "b"] }\n[evaluation]\nsubgroups = ["sex", "age"]'
    ).evaluation
    grouped = job.model_copy(update={"evaluation": named})
    text = exactness(grouped, 20)
    assert "In subgroups of equal size: AUC by sex (2 groups) +- 0.0" in text
    assert "AUC by age (5 groups) +- 0." in text
    assert "In subgroups" not in exactness(job, 20)
    whole, alone = foretold(grouped, 20)["auc"], foretold(job, 20)["auc"]
    half, fifth = foretold(grouped, 20, 1 / 2)["auc"], foretold(grouped, 20, 1 / 5)["auc"]
    errors = [metric.standard_error or 1.0 for metric in (alone, whole, half, fifth)]
    assert errors == sorted(errors), "fewer patients and more groups are less exact"
    few = grouped.model_copy(update={"privacy": job.privacy.model_copy(update={"patients_per_site": 80})})
    assert "AUC by age (5 groups) too noisy to say" in exactness(few, 10)


def test_an_error_is_never_shown_as_nothing() -> None:
    for error, text in ((0.2, "+- 0.20"), (0.01, "+- 0.01"), (0.0034, "+- 0.003"), (0.00001, "+- 0.001")):
        assert _about(Estimate(value=0.9, standard_error=error, noise_error=0.0)) == text
