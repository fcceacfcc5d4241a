from pathlib import Path

import pytest
from tests.builders import job_text, tiny_job

from salus.common.errors import IdentityError, JobError
from salus.common.identity import Identity
from salus.common.job import job_from_canonical, load_job, open_job, parse_job, seal_job


def test_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(JobError, match=r"unknown key 'job\.round' \(did you mean 'rounds'\?\)"):
        parse_job(job_text().replace("rounds =", "round ="))


def test_unknown_section_names_the_nearest_known_one() -> None:
    with pytest.raises(JobError, match="did you mean 'training'"):
        parse_job(job_text().replace("[training]", "[traning]"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('classes = ["no", "yes"]', 'classes = ["no"]', "two different classes"),
        ('classes = ["no", "yes"]', 'classes = ["no", "no"]', "only different classes"),
        ("rounds = 2", "rounds = 0", "greater than or equal to 1"),
        ("rounds = 2", 'rounds = "2"', "valid integer"),
        ('name = "tiny"', 'name = "../etc"', "pattern"),
        ("learning_rate = 0.02", "learning_rate = nan", "plain values|finite"),
        ("learning_rate = 0.02", "learning_rate = 0.02\nweight_decay = 50.0", "weight_decay times learning_rate"),
        ("[job]", "[job", "TOML"),
        ('name = "tiny"', "", r"missing key 'job\.name'"),
    ],
)
def test_wrong_values_are_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse_job(job_text().replace(old, new))


def test_asking_for_privacy_that_is_not_built_is_an_error() -> None:
    with pytest.raises(JobError, match="privacy"):
        parse_job(job_text() + '[privacy]\nnoise = "local"\nepsilon = 1.0\n')


def test_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="Cannot read the job file 'absent.toml'") as caught:
        load_job(tmp_path / "absent.toml")
    assert str(tmp_path) not in str(caught.value)


def test_canonical_form_round_trips_and_nothing_else_is_accepted() -> None:
    job = tiny_job()
    assert job_from_canonical(job.canonical_bytes()) == job
    with pytest.raises(JobError, match="canonical form"):
        job_from_canonical(job.canonical_bytes().replace(b'"rounds":2', b'"rounds": 2'))
    for garbage in (b"", b"{", b"[" * 100_000, b'{"job":1}'):
        with pytest.raises(JobError):
            job_from_canonical(garbage)


def test_hash_changes_with_every_setting() -> None:
    assert tiny_job().digest() != tiny_job(rounds=3).digest()


def test_only_the_coordinators_signature_opens_a_job() -> None:
    coordinator, other = Identity.generate(), Identity.generate()
    signed = seal_job(tiny_job(), coordinator)
    assert open_job(signed, coordinator.public_key)[0] == tiny_job()
    with pytest.raises(IdentityError, match="does not verify"):
        open_job(signed, other.public_key)
    changed = signed.model_copy(update={"document": signed.document.replace('"rounds":2', '"rounds":9')})
    with pytest.raises(IdentityError, match="does not verify"):
        open_job(changed, coordinator.public_key)
    with pytest.raises(IdentityError, match="statement"):
        open_job(signed.model_copy(update={"context": "salus/roster/1"}), coordinator.public_key)


def test_local_noise_takes_one_step_a_round_unless_the_job_asks_for_more() -> None:
    def steps(training: str = "", **privacy: object) -> int:
        section = "\n".join(f"{key} = {value!r}" for key, value in {"noise": "local", **privacy}.items())
        job = parse_job(job_text(training=training, privacy=section.replace("'", '"')))
        assert job.one_step == (job.noised_steps == 1)
        assert job_from_canonical(job.canonical_bytes()) == job
        return job.noised_steps

    assert steps() == 1
    assert steps(steps_per_round=7) == 7
    assert steps("local_epochs = 2", sampling_rate=0.1) == 20
    assert steps(noise="none") == 0


@pytest.mark.parametrize(
    ("training", "privacy", "named"),
    [
        ("local_epochs = 2", 'noise = "local"\nsteps_per_round = 4', "not both"),
        ("local_epochs = 2", 'noise = "distributed"', "local_epochs"),
        ("", 'noise = "distributed"\nsteps_per_round = 2', "steps_per_round"),
        ("", 'noise = "none"\nsteps_per_round = 2', "steps_per_round"),
        ("", 'noise = "local"\nsteps_per_round = 0', "steps_per_round"),
    ],
)
def test_steps_without_effect_are_refused(training: str, privacy: str, named: str) -> None:
    with pytest.raises(JobError, match=named):
        parse_job(job_text(training=training, privacy=privacy, protection="masking"))
