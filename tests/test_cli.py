"""The command line as a person meets it: every command has a help with an example, and no failure is a traceback."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import typer
from PIL import Image
from tests.builders import job_text, write_npz
from tests.cli import Result, salus

from salus.cli import app

ROOT = Path(__file__).resolve().parents[1]


def commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        found = []
        for name, child in command.commands.items():
            found += commands(child, (*path, name))
        return found
    return [(path, command)]


ALL = commands(typer.main.get_command(app))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_command_has_a_help_and_an_example_that_parses(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    epilog = command.epilog or ""
    assert epilog.startswith("Example: salus " + " ".join(path)), epilog
    words = shlex.split(epilog.removeprefix("Example: salus "))[len(path) :]
    command.make_context(path[-1], words)


def test_the_promised_commands_exist() -> None:
    names = {" ".join(path) for path, _ in ALL}
    promised = """demo simulate bench job validate|job sign|job submit|job list|job watch|job cancel|server init|server start
    |server status|client init|client start|client status|dataset add|dataset list|dataset show|dataset check
    |consortium init|consortium add-site|consortium issue"""
    for part in promised.replace("\n", "").replace("demo simulate bench ", "demo|simulate|bench|").split("|"):
        assert part.strip() in names


def failed(result: Result, code: int, *texts: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    for text in texts:
        assert text in lines[0]


def test_mistakes_are_one_clear_line_with_an_exit_code(tmp_path: Path) -> None:
    failed(salus("job", "validate", tmp_path / "no.toml"), 10, "no.toml", "Check the path")
    (tmp_path / "bad.toml").write_text(job_text().replace("rounds", "ronds"))
    failed(salus("job", "validate", tmp_path / "bad.toml"), 10, "did you mean 'rounds'")
    failed(salus("server", "status", tmp_path), 11, "not a coordinator's folder")
    made = salus("server", "init", tmp_path / "c", "--name", "U", "--url", "https://c.example:8443")
    assert made.returncode == 0, made.stderr
    failed(salus("server", "status", tmp_path / "c"), 31, "server start")
    failed(salus("job", "validate", "."), 10, "'.'", "Check the path")
    failed(salus("server", "start", tmp_path), 11, "not a coordinator's folder")
    failed(salus("client", "start", tmp_path), 11, "not a site's folder")
    failed(salus("dataset", "list", tmp_path / "x"), 11, "client init")
    failed(salus("client", "join", tmp_path, tmp_path / "no.kit"), 11, "no.kit")
    failed(salus("bench", "speed"), 11, "link")
    (tmp_path / "job.toml").write_text(job_text())
    result = salus("simulate", tmp_path / "job.toml", "--data", tmp_path / "absent", "--sites", "2")
    failed(result, 11, "absent")


def test_a_class_that_the_data_do_not_have_stops_a_simulation_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label,person\n" + "".join(f"{n}.png,yes,{n}\n" for n in range(12)))
    for number in range(12):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "job.toml").write_text(job_text())
    command = ("simulate", tmp_path / "job.toml", "--data", tmp_path, "--sites", "2")
    result = salus(*command, "--patient-column", "person")
    assert result.returncode == 44, result.stderr
    assert result.stderr.count("'no' is not a class of 'toy'") == 1, "once, not for every site and attempt"


def test_the_first_ten_minutes_of_all_three_people(tmp_path: Path) -> None:
    def good(*arguments: str | Path) -> str:
        result = salus(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    good("consortium", "init", "consortium", "--name", "Test")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    good("server", "init", "coordinator", "--name", "U", "--url", f"https://127.0.0.1:{port}")
    good("client", "init", "site", "--name", "St. Mary")
    good("consortium", "add-site", "consortium", "coordinator/coordinator.request")
    good("consortium", "add-site", "consortium", "site/site.request")
    good("consortium", "issue", "consortium", "kits")
    good("server", "join", "coordinator", "kits/coordinator.kit")
    assert "Joined Test" in good("client", "join", "site", "kits/site-1.kit")
    data = write_npz(tmp_path / "toy.npz")
    assert "40" in good("dataset", "add", "site", "toy", data)
    assert json.loads(good("dataset", "list", "site", "--json"))[0]["images"] == 80
    good("dataset", "show", "site", "toy")
    assert re.search(r"readable now\W+80\b", good("dataset", "check", "site", "toy"))
    failed(salus("dataset", "add", tmp_path / "site", "toy", data), 20, "already registered")
    assert json.loads(good("client", "status", "site", "--json"))["running"] is False
    (tmp_path / "job.toml").write_text(job_text())
    assert "every site's update" in good("job", "validate", "job.toml")
    good("job", "sign", "coordinator", "job.toml", "--output", "signed.json")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        failed(salus("server", "start", tmp_path / "coordinator"), 11, "Cannot listen", "server.toml")


def test_an_unforeseen_error_is_one_line_and_its_traceback_is_private(tmp_path: Path) -> None:
    script = "from salus.common.console import run\ndef boom(): raise KeyError('patient Smith')\nrun(boom)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "Smith" not in result.stderr
    (private,) = tmp_path.glob("salus-error-*")
    assert private.stat().st_mode & 0o077 == 0
    assert "Traceback" in private.read_text()


def test_simulate_writes_the_promised_json(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "toy.npz", images=60)
    (tmp_path / "job.toml").write_text(job_text())
    result = salus("simulate", tmp_path / "job.toml", "--data", data, "--sites", "2", "--json", tmp_path / "out.json")
    assert result.returncode == 0, result.stderr
    values = json.loads((tmp_path / "out.json").read_text())
    assert {"auc", "accuracy"} <= values["metrics"].keys()
    assert len(values["rounds"]) == 2
    assert values["seconds"] > 0
    assert values["peak_rss_mb"] > 0
