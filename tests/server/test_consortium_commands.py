"""`salus consortium` as a person meets it, and as an attacker would like it to be."""

import json
from pathlib import Path

import pytest
from tests.cli import salus

from salus.common.identity import fingerprint
from salus.common.kit import read_request


def made(folder: Path) -> Path:
    for words in (
        ("consortium", "init", "consortium", "--name", "Test"),
        ("server", "init", "coordinator", "--name", "University", "--url", "https://127.0.0.1:8443"),
        ("client", "init", "mary", "--name", "St. Mary"),
        ("consortium", "add-site", "consortium", "coordinator/coordinator.request"),
        ("consortium", "add-site", "consortium", "mary/site.request"),
    ):
        result = salus(*words, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def print_of(path: Path) -> str:
    return fingerprint(bytes.fromhex(read_request(path).public_key))


def test_a_known_name_needs_replace_and_both_fingerprints_are_on_the_screen(tmp_path: Path) -> None:
    made(tmp_path)
    assert salus("client", "init", "again", "--name", "st. mary", cwd=tmp_path).returncode == 0
    old, new = print_of(tmp_path / "mary" / "site.request"), print_of(tmp_path / "again" / "site.request")
    refused = salus("consortium", "add-site", "consortium", "again/site.request", cwd=tmp_path)
    assert refused.returncode == 12
    assert len(refused.stderr.splitlines()) == 1
    for text in (old, new, "--replace", "telephone"):
        assert text in refused.stderr
    replaced = salus("consortium", "add-site", "consortium", "again/site.request", "--replace", cwd=tmp_path)
    assert replaced.returncode == 0
    assert f"Old key fingerprint: {old}" in replaced.stdout
    assert f"New key fingerprint: {new}" in replaced.stdout


def test_a_site_that_says_it_is_the_coordinator_replaces_nobody(tmp_path: Path) -> None:
    made(tmp_path)
    url = "https://127.0.0.1:9"
    assert salus("server", "init", "thief", "--name", "St. Mary", "--url", url, cwd=tmp_path).returncode == 0
    refused = salus("consortium", "add-site", "consortium", "thief/coordinator.request", cwd=tmp_path)
    assert refused.returncode == 12
    assert "The coordinator is a member already" in refused.stderr


@pytest.mark.parametrize("name", ["[bold]St. Mary[/] 1234 5678[conceal]", "St. Mary\\u001b[8m", "St. Mary\\u202e"])
def test_a_name_with_markup_is_refused_before_anything_is_shown_or_kept(tmp_path: Path, name: str) -> None:
    made(tmp_path)
    assert salus("client", "init", "evil", "--name", "Evil", cwd=tmp_path).returncode == 0
    request = tmp_path / "evil" / "site.request"
    request.write_text(request.read_text().replace('"name":"Evil"', f'"name":"{name}"'))
    before = (tmp_path / "consortium" / "consortium.json").read_bytes()
    refused = salus("consortium", "add-site", "consortium", request, "--replace", cwd=tmp_path)
    assert refused.returncode == 11
    assert "U+" in refused.stderr
    assert "\x1b" not in refused.stderr
    assert "\u202e" not in refused.stderr
    assert (tmp_path / "consortium" / "consortium.json").read_bytes() == before


def test_members_are_removed_by_name_or_number(tmp_path: Path) -> None:
    made(tmp_path)
    wrong = salus("consortium", "remove-site", "consortium", "St. Marry", cwd=tmp_path)
    assert wrong.returncode == 11
    assert "1 St. Mary" in wrong.stderr
    removed = salus("consortium", "remove-site", "consortium", "st. mary", cwd=tmp_path)
    assert "Removed St. Mary, site 1." in removed.stdout
    empty = salus("consortium", "issue", "consortium", "kits", cwd=tmp_path)
    assert empty.returncode == 11
    assert "at least one site" in empty.stderr
    assert salus("consortium", "add-site", "consortium", "mary/site.request", cwd=tmp_path).stdout.startswith(
        "Added St. Mary as site 2."
    )


def test_a_wrong_init_leaves_nothing_behind(tmp_path: Path) -> None:
    for words in (
        ("consortium", "init", "x", "--name", "[red]"),
        ("client", "init", "x", "--name", "a\x1bb"),
        ("server", "init", "x", "--name", "U", "--url", "ftp://x"),
        ("server", "init", "x", "--name", "U", "--url", "https://x", "--listen", "a b"),
    ):
        refused = salus(*words, cwd=tmp_path)
        assert refused.returncode == 11, words
        assert len(refused.stderr.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []


def test_a_kit_is_installed_by_the_command_of_its_member_only(tmp_path: Path) -> None:
    made(tmp_path)
    assert salus("consortium", "issue", "consortium", "kits", cwd=tmp_path).returncode == 0
    for words in (
        ("client", "join", "coordinator", "kits/coordinator.kit"),
        ("server", "join", "mary", "kits/site-1.kit"),
    ):
        refused = salus(*words, cwd=tmp_path)
        assert refused.returncode == 11
        assert f"'{words[2]}' has no " in refused.stderr
        assert "salus client join" in refused.stderr
        assert not (tmp_path / words[2] / "trust").exists()


def test_a_stop_between_two_requests_names_the_last_job(tmp_path: Path) -> None:
    made(tmp_path)
    line = {"number": 1, "at": "2026-11-27T12:00:00+00:00", "kind": "trained", "job": "long-0003", "round": 1}
    (tmp_path / "mary" / "events.jsonl").write_text(json.dumps(line) + "\n")
    refused = salus("client", "stop-job", "mary", cwd=tmp_path)
    assert refused.returncode == 11
    assert "salus client stop-job FOLDER long-0003" in refused.stderr


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:8443", "https://", "https://salus.example.org:port"])
def test_the_doctor_refuses_an_address_that_no_kit_could_name(tmp_path: Path, url: str) -> None:
    made(tmp_path)
    refused = salus("doctor", "mary", "--url", url, cwd=tmp_path)
    assert refused.returncode == 11
    assert "Expected a URL such as https://salus.example.org:8443" in refused.stderr
