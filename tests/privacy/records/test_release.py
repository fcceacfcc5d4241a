"""A package is released only if nothing is missing; each gap is named; sites endorse what they have checked."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.builders import job_text
from tests.cli import salus
from tests.packages import (
    NOISE,
    SITES,
    audit_of,
    changed_json,
    consortium_key,
    content,
    export,
    finish,
    kit,
    plain_job,
    readable_again,
    signed_again,
    write_folder,
    write_zip,
)

from salus import __version__
from salus.common.canonical import canonical_json
from salus.common.errors import PackageError
from salus.common.identity import Identity
from salus.common.job import Job, parse_job
from salus.common.package.adding import add_files
from salus.common.package.checking import checked_package
from salus.privacy.records.licences import licence_gaps
from salus.privacy.records.package import evidence_of
from salus.privacy.records.release import (
    NO_CLAIM,
    Endorsement,
    endorsements_of,
    missing_for_release,
    release_of,
    seal_endorsement,
    statements_of,
)
from salus.privacy.records.release import _architecture_gaps as architecture_gaps
from salus.server.packaging.runs import open_run


@pytest.fixture(scope="module")
def released(private_run: Path, private_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released package with the endorsement of a site; never to be changed."""
    run, folder = tmp_path_factory.mktemp("released") / "run", tmp_path_factory.mktemp("package") / "package"
    shutil.copytree(private_run, run)
    shutil.copytree(private_package, folder)
    (run / "audit.json").write_bytes(audit_of(open_run(run).job))
    made = salus("release", run, folder, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["released"] is True
    signed = salus("client", "endorse", run / "site-2", folder, "--kit", kit(run))
    assert signed.returncode == 0, signed.stderr
    assert "its ledger head is in this site's ledger" in signed.stdout
    return folder


def logistic(classes: int, noise: str) -> Job:
    names = ", ".join(f'"{n}"' for n in range(classes))
    return parse_job(f"""
[job]
name = "wide"
rounds = 1
min_sites = 5
[task]
kind = "classification"
model = "logistic"
dataset = "d"
classes = [{names}]
shape = [8, 8]
[privacy]
noise = "{noise}"
""")


WIDE = logistic(20, "none")


def gaps(package: Path, audit: bytes | None, reason: str = "") -> list[str]:
    with checked_package(package) as found:
        return missing_for_release(found, evidence_of(found), audit, reason)


def test_a_release_and_an_endorsement_are_shown(released: Path, private_run: Path) -> None:
    shown = salus("verify", released, "--kit", kit(private_run))
    assert shown.returncode == 0, shown.stderr
    assert "an audit found at least 0.40 at 95% confidence" in shown.stdout
    assert "by site-2 (site 2), which found its ledger head in its own ledger" in shown.stdout


def test_each_gap_is_named(private_run: Path, private_package: Path, tmp_path: Path) -> None:
    job = open_run(private_run).job
    assert gaps(private_package, audit_of(job)) == []
    assert gaps(private_package, None) == ["there is no audit: run salus audit, which writes audit.json"]
    for changes, sentence in [
        ({"lower_bound": 3.2}, "the audit refutes the claim: epsilon is at least 3.20, the job promises 3"),
        ({"job_sha256": "0" * 64}, "audit.json is of another job"),
        ({"claimed_epsilon": 8.0}, "audit.json is of another claim than that of the job"),
        ({"delta": 0.01}, "audit.json is of another claim than that of the job"),
        ({"lower_bound": None}, "audit.json states no lower bound"),
        ({"lower_bound": -5.0}, "audit.json states no lower bound"),
        ({"lower_bound": True}, "audit.json states no lower bound"),
        ({"lower_bound": "0.1"}, "audit.json states no lower bound"),
        ({"confidence": "high"}, "audit.json is not of the confidence 95%"),
        ({"confidence": 0.0001}, "audit.json is not of the confidence 95%"),
        ({"confidence": 0.999999}, "audit.json is not of the confidence 95%"),
        ({"refuted": True}, "audit.json does not say that the claim is not refuted"),
        ({"lower_bound": 0.0}, "the lower bound in audit.json does not follow from its guesses, which show 0.40"),
        ({"correct": 500}, "the lower bound in audit.json does not follow from its guesses, which show 4.54"),
        ({"correct": "327"}, "audit.json does not state the numbers of canaries, guesses and correct guesses"),
        ({"guesses": 10**9, "canaries": 10**9}, "audit.json states numbers of guesses that cannot be"),
        ({"canaries": 0, "guesses": 0, "correct": 0}, "audit.json states numbers of guesses that cannot be"),
        ({"canaries": 1, "guesses": 1, "correct": 0}, "the audit had 1 canaries, at least 20 are needed"),
        ({"format": "salus/audit/9"}, "audit.json is no audit of the format salus/audit/1"),
    ]:
        assert gaps(private_package, audit_of(job, **changes)) == [sentence]
    files = content(private_package)
    files["evaluation.json"] = changed_json(
        files["evaluation.json"], lambda e: e.update(sites={}, subgroups={}, not_evaluated="too few sites")
    )
    files["card.json"] = changed_json(files["card.json"], lambda c: c.update(metrics={}))
    files["sbom.json"] = changed_json(
        files["sbom.json"], lambda b: b["components"][0].update(scope="required", licenses=[])
    )
    name = json.loads(files["sbom.json"])["components"][0]["name"]
    less = write_folder(signed_again(readable_again(files), private_run), tmp_path / "less")
    assert gaps(less, audit_of(job)) == [
        "there is no evaluation at the sites (too few sites)",
        "there is no table of subgroups: the job names none in evaluation.subgroups",
        f"sbom.json lists no licence of {name}",
    ]


@pytest.mark.parametrize(
    "bound", ["NaN", "Infinity", "1e999", "1" * 400, '9.5, "lower_bound": 0.3987'], ids=lambda text: text[:8]
)
def test_numbers_that_programs_read_differently_are_no_audit(
    private_run: Path, private_package: Path, bound: str
) -> None:
    stated = audit_of(open_run(private_run).job)
    text = json.dumps(json.loads(stated) | {"lower_bound": "here"}).replace('"here"', bound).encode()
    for data in (text, stated.decode().encode("utf-16")):
        with pytest.raises(PackageError, match=r"audit\.json is not JSON"):
            gaps(private_package, data)


def bill(**changes: object) -> dict[str, object]:
    component = {"name": "numpy", "scope": "optional", "licenses": [{"license": {"name": "BSD"}}], **changes}
    return {"components": [{key: value for key, value in component.items() if value is not None}]}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (bill(), ""),
        (bill(licenses=[{"expression": "BSD-3-Clause"}]), ""),
        (bill(licenses=None), "sbom.json lists no licence of numpy"),
        (bill(licenses=[{}]), "sbom.json lists no licence of numpy"),
        (bill(licenses="none"), "sbom.json lists no licence of numpy"),
        (bill(licenses=[{"license": {"name": " "}}]), "sbom.json lists no licence of numpy"),
        (bill(name="other", scope=None, licenses=None), "sbom.json does not list numpy"),
        (bill(name=7), "sbom.json lists software without a name"),
        ({"components": ["numpy"]}, "sbom.json lists software without a name"),
        ({"components": []}, "sbom.json lists no software"),
        ([], "sbom.json lists no software"),
    ],
)
def test_software_without_a_licence_is_named(found: object, sentence: str) -> None:
    assert licence_gaps(found, {"libraries": {"numpy": "2"}}) == ([sentence] if sentence else [])


def test_software_without_a_scope_counts_as_required() -> None:
    bare = {"components": [*bill()["components"], {"name": "hidden"}]}  # type: ignore[misc]
    assert licence_gaps(bare, {"libraries": {"numpy": "2"}}) == ["sbom.json lists no licence of hidden"]
    assert licence_gaps(bill(), {"libraries": {}}) == ["versions.json names no libraries"]


def test_an_evaluation_that_no_site_took_part_in_is_found_out(
    private_package: Path, private_run: Path, tmp_path: Path
) -> None:
    """A coordinator that adds numbers to the package of a job without an evaluation."""
    privacy = NOISE.replace("evaluation_share = 0.4", "evaluation_share = 0.0")
    text = job_text(rounds=1, min_sites=SITES, protection="masking", privacy=privacy)
    run = finish(tmp_path / "run", parse_job(text))
    files = content(export(run, tmp_path / "package"))
    made_up = json.loads(content(private_package)["evaluation.json"])
    for subgroups, sentence in [
        ({}, "evaluation.json has an evaluation at the sites, transcript.jsonl has none"),
        (made_up["subgroups"], "evaluation.json has other subgroups than job.json"),
    ]:
        lie = dict(files)
        lie["evaluation.json"] = canonical_json({**made_up, "subgroups": subgroups})
        lie["card.json"] = changed_json(lie["card.json"], lambda card: card.update(metrics=made_up["sites"]))
        folder = write_folder(signed_again(readable_again(lie), run), tmp_path / sentence[:40].replace(" ", "-"))
        with checked_package(folder) as package, pytest.raises(PackageError, match=sentence):
            evidence_of(package)


@pytest.mark.parametrize("table", ["yes", {"sex": {}}, {"sex": 7}, [1], {"sex": {"hidden": None, "groups": {}}}])
@pytest.mark.parametrize("version", [__version__, "0.0.1"])
def test_a_table_of_subgroups_without_groups_is_none(
    private_package: Path, private_run: Path, tmp_path: Path, table: object, version: str
) -> None:
    files = content(private_package)
    files["evaluation.json"] = changed_json(files["evaluation.json"], lambda e: e.update(subgroups=table))
    files["versions.json"] = changed_json(files["versions.json"], lambda v: v.update(salus=version))
    folder = write_folder(signed_again(files, private_run, lambda m: m.update(salus=version)), tmp_path / "p")
    with checked_package(folder) as package, pytest.raises(PackageError, match="subgroups that no export writes"):
        evidence_of(package)


def test_a_package_without_a_card_for_people_is_not_released(
    private_package: Path, private_run: Path, tmp_path: Path
) -> None:
    files = content(private_package)
    del files["model-card.md"]
    less = write_folder(signed_again(files, private_run), tmp_path / "p")
    assert gaps(less, audit_of(open_run(private_run).job)) == ["the file model-card.md is missing"]


def test_a_reason_has_words() -> None:
    assert architecture_gaps(WIDE, " \n") != []


def test_a_wide_layer_on_the_raw_input_needs_a_reason() -> None:
    (gap,) = architecture_gaps(WIDE, "")
    assert "(20 outputs) lies on the raw input and can reveal single samples" in gap
    assert architecture_gaps(WIDE, "only public images") == []
    assert architecture_gaps(logistic(20, "local"), "") == []
    assert architecture_gaps(logistic(2, "none"), "") == []


def test_a_job_without_noise_says_that_it_has_no_claim() -> None:
    job = plain_job()
    assert statements_of(job, audit_of(job)) == (NO_CLAIM,)


def test_the_command_names_everything_that_is_missing(plain_run: Path, private_package: Path, tmp_path: Path) -> None:
    salus("model", "export", plain_run, tmp_path / "package")
    before = content(tmp_path / "package")
    refused = salus("release", plain_run, tmp_path / "package", "--json")
    assert refused.returncode == 14
    assert json.loads(refused.stdout)["missing"] == ["there is no audit: run salus audit, which writes audit.json"]
    assert "Not released: there is no audit" in refused.stderr
    assert content(tmp_path / "package") == before
    other = salus("release", plain_run, private_package)
    assert other.returncode == 14
    assert "another consortium" in other.stderr


def forged(files: dict[str, bytes], name: str, **changes: object) -> None:
    """Change what a statement says, and keep its signature."""

    def edit(signed: dict[str, str]) -> None:
        signed["document"] = changed_json(signed["document"].encode(), lambda d: d.update(changes)).decode()

    files[name] = changed_json(files[name], edit)


CHANGES = {
    "another audit": (lambda f: f.update({"audit.json": f["audit.json"] + b" "}), "is not the audit that release.json"),
    "no audit": (lambda f: f.pop("audit.json"), "the file audit.json is missing"),
    "no release": (lambda f: f.pop("release.json"), "audit.json is there without release.json"),
    "a release of another package": (lambda f: forged(f, "release.json", package="0" * 64), "release.json is not signed"),
    "another reason": (lambda f: forged(f, "release.json", reason="public data"), "release.json is not signed"),
    "another site": (
        lambda f: f.update({"endorsements/site-3.json": f.pop("endorsements/site-2.json")}),
        "endorsements/site-3.json is not signed by site 3",
    ),
    "a site that is no member": (
        lambda f: f.update({"endorsements/site-9.json": f.pop("endorsements/site-2.json")}),
        "site that is not on the roster",
    ),
    "an endorsed ledger": (
        lambda f: forged(f, "endorsements/site-2.json", ledger=False),
        "endorsements/site-2.json is not signed by site 2",
    ),
    "an endorsement as a release": (
        lambda f: f.update({"release.json": f["endorsements/site-2.json"]}),
        "release.json is not signed by the coordinator",
    ),
    "a name above the folder": (
        lambda f: f.update({"endorsements/site-01.json": f["endorsements/site-2.json"]}),
        "which no package has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_was_added_is_named(name: str, released: Path, private_run: Path, tmp_path: Path) -> None:
    change, sentence = CHANGES[name]
    files = content(released)
    change(files)
    path = write_zip(files, tmp_path / "package.zip")

    def check() -> None:
        with checked_package(path, consortium_key(private_run)) as package:
            release_of(package, evidence_of(package))
            endorsements_of(package)

    with pytest.raises(PackageError) as found:
        check()
    assert sentence in str(found.value)


def test_a_release_against_the_rules_is_found_out(released: Path, private_run: Path, tmp_path: Path) -> None:
    """A coordinator that signs a release although the audit refutes the claim is named by whoever verifies it."""
    from datetime import UTC, datetime
    from hashlib import sha256

    from salus.privacy.records.release import Release, seal_release

    run = open_run(private_run)
    audit = audit_of(run.job, lower_bound=9.0)
    with checked_package(released) as package:
        digest = package.sha256
    bad = Release(
        package=digest, audit_sha256=sha256(audit).hexdigest(), reason="", statements=(), at=datetime.now(UTC)
    )
    files = {**content(released), "audit.json": audit, "release.json": seal_release(bad, run.coordinator)}
    with (
        checked_package(write_folder(files, tmp_path / "p")) as package,
        pytest.raises(PackageError, match="released although the audit refutes the claim: epsilon is at least 9.00"),
    ):
        release_of(package, evidence_of(package))


def test_endorsements_are_added_to_a_zip_and_a_stranger_cannot(
    private_package: Path, private_run: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "package.zip"
    shutil.copy(private_package.with_name("package.zip"), archive)
    signed = salus("client", "endorse", private_run / "site-1", archive, "--kit", kit(private_run))
    assert signed.returncode == 0, signed.stderr
    with checked_package(archive, consortium_key(private_run)) as package:
        assert [one.site for one in endorsements_of(package)] == [1]
        digest, at = package.sha256, package.manifest.created
    stranger = Endorsement(package=digest, site=2, ledger=True, at=at)
    add_files(archive, {"endorsements/site-2.json": seal_endorsement(stranger, Identity.generate())})
    with (
        checked_package(archive) as package,
        pytest.raises(PackageError, match="site-2.json is not signed by site 2"),
    ):
        endorsements_of(package)


def test_a_release_finds_the_newest_package_of_the_run_by_itself(private_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(private_run, run)
    (run / "audit.json").write_bytes(audit_of(open_run(run).job))
    unknown = salus("release", run)
    assert unknown.returncode == 11
    assert "No package of the job 'tiny-0001' is known in 'run'" in unknown.stderr
    (run / "exported.json").write_text('{"packages": {"tiny-0001": 7, "other": "package"}}')
    assert salus("release", run).returncode == 11
    assert salus("model", "export", run, tmp_path / "package").returncode == 0
    released = salus("release", run, "--json")
    assert released.returncode == 0, released.stderr
    assert json.loads(released.stdout)["path"] == str(tmp_path / "package")
    assert (tmp_path / "package" / "release.json").exists()


def test_pipes_in_a_run_are_not_waited_for(private_run: Path, private_package: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(private_run, run)
    os.mkfifo(run / "audit.json")
    refused = salus("release", run, private_package)
    assert refused.returncode == 11
    assert "Expected the audit 'audit.json' to be a file" in refused.stderr
    (run / "exported.json").unlink(missing_ok=True)
    os.mkfifo(run / "exported.json")
    unknown = salus("release", run)
    assert unknown.returncode == 11
    assert "No package of the job 'tiny-0001' is known" in unknown.stderr


def test_a_site_whose_ledger_lacks_the_head_does_not_endorse(
    private_package: Path, private_run: Path, tmp_path: Path
) -> None:
    other = finish(tmp_path / "other", plain_job())
    site = tmp_path / "site"
    shutil.copytree(private_run / "site-1", site)
    shutil.copy(other / "site-1" / "ledger.sqlite", site / "ledger.sqlite")
    refused = salus("client", "endorse", site, private_package, "--kit", kit(private_run))
    assert refused.returncode == 41
    assert "rolled back" in refused.stderr
    assert not (private_package / "endorsements").exists()
