import json
from pathlib import Path

import pytest
from tests.builders import job_text, tiny_job

from salus.common import job as jobs
from salus.common.canonical import canonical_json
from salus.common.errors import IdentityError, JobError
from salus.common.identity import Identity
from salus.common.job import Job, JobHead, job_from_canonical, load_job, open_job, parse_job, seal_job


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
        ("rounds = 2", "rounds = 0", "expected at least 1"),
        ("rounds = 2", 'rounds = "2"', "expected a whole number"),
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


class LaterHead(JobHead):
    """The section [job] of a later version of Salus, with one more key and another default."""

    priority: int = 3
    join_timeout_s: float = 5.0


class LaterJob(Job):
    """The job of a later version of Salus."""

    job: LaterHead


def test_a_job_that_was_signed_before_a_key_existed_keeps_its_hash_and_its_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinator, job = Identity.generate(), tiny_job()
    signed, digest = seal_job(job, coordinator), job.digest()
    monkeypatch.setattr(jobs, "Job", LaterJob)
    opened, document = open_job(signed, coordinator.public_key)
    assert isinstance(opened, LaterJob)
    assert opened.job.priority == 3
    assert opened.job.join_timeout_s == 3600.0  # as the document says, not as the later version would
    assert opened.digest() == digest
    assert opened.canonical_bytes() == document == job.canonical_bytes()
    assert seal_job(opened, coordinator).document == signed.document  # resumed and sent again unchanged
    changed = opened.model_copy(update={"job": opened.job.model_copy(update={"rounds": 9})})
    assert b'"rounds":9' in changed.canonical_bytes()
    assert changed.digest() != digest


def test_a_site_that_does_not_know_a_key_says_that_it_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = Identity.generate()
    text = job_text().replace("[task]", "priority = 1\n[task]")
    with monkeypatch.context() as later:
        later.setattr(jobs, "Job", LaterJob)
        signed = seal_job(parse_job(text), coordinator)
    with pytest.raises(
        JobError, match=r"does not know the key 'job\.priority' and is too old.*Install the newest version"
    ):
        open_job(signed, coordinator.public_key)
    with pytest.raises(JobError, match=r"unknown key 'job\.priority'"):
        parse_job(text)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (2, r"has format 2, but Salus .* knows formats up to 1: the reading side is too old"),
        (10**30, "the reading side is too old"),
        (None, "the side that wrote it is too old"),
        (0, "the side that wrote it is too old"),
        (True, "the side that wrote it is too old"),
        ("1", "the side that wrote it is too old"),
    ],
)
def test_a_job_of_another_format_is_refused_and_says_which_side_is_too_old(stated: object, message: str) -> None:
    values = json.loads(tiny_job().canonical_bytes()) | {"format": stated}
    if stated is None:
        del values["format"]
    with pytest.raises(JobError, match=message):
        job_from_canonical(canonical_json(values))


def test_a_job_file_states_its_format_or_has_the_newest() -> None:
    assert parse_job("format = 1\n" + job_text()) == tiny_job()
    with pytest.raises(JobError, match="the reading side is too old"):
        parse_job("format = 2\n" + job_text())


def test_a_job_signed_under_a_later_statement_says_so() -> None:
    coordinator = Identity.generate()
    signed = seal_job(tiny_job(), coordinator)
    with pytest.raises(IdentityError, match="salus/job statement has format 2.*the reading side is too old"):
        open_job(signed.model_copy(update={"context": "salus/job/2"}), coordinator.public_key)


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 3000, "a = " + "{b=" * 2000])
def test_text_that_the_toml_parser_itself_fails_on_is_a_refusal(text: str) -> None:
    with pytest.raises(JobError, match="Expected plain values in the job file"):
        parse_job(text)
