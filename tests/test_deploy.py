"""The commands in deploy/ exist in the command line, with their options."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from salus.cli import app

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"


def used() -> list[tuple[str, list[str]]]:
    found = []
    for path in DEPLOY.glob("Containerfile.*"):
        text = path.read_text()
        assert 'ENTRYPOINT ["salus"]' in text
        found.append((path.name, json.loads(re.findall(r"^CMD (\[.*\])$", text, re.M)[0])))
    for name, service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].items():
        found.append((f"compose {name}", service["command"]))
        assert (DEPLOY.parent / service["build"]["dockerfile"]).exists()
    for path in (DEPLOY / "systemd").glob("*.service"):
        line = re.findall(r"^ExecStart=\S+/salus (.*)$", path.read_text(), re.M)[0]
        found.append((path.name, shlex.split(line)))
    return found


@pytest.mark.parametrize(("where", "words"), used(), ids=[name for name, _ in used()])
def test_every_command_in_deploy_parses(where: str, words: list[str]) -> None:
    group = typer.main.get_command(app)
    command = group.commands[words[0]].commands[words[1]]  # type: ignore[attr-defined]
    command.make_context(words[1], words[2:])


def test_the_trial_has_five_sites() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert sorted(services) == ["coordinator", *(f"site-{n}" for n in range(1, 6))]
    assert not any("ports" in service for name, service in services.items() if name != "coordinator")


def test_the_services_get_enough_open_files_and_leave_no_core() -> None:
    for path in (DEPLOY / "systemd").glob("*.service"):
        text = path.read_text()
        assert int(re.findall(r"^LimitNOFILE=(\d+)$", text, re.M)[0]) >= 65_536
        assert re.search(r"^LimitCORE=0$", text, re.M)
        assert re.search(r"^SuccessExitStatus=143$", text, re.M)
