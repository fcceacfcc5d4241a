"""Every argument and option of every command says what it is."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from salus.cli import app


def commands(command: Any, name: str = "salus") -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")


def test_every_argument_and_option_has_help() -> None:
    every = list(commands(typer.main.get_command(app)))
    assert len(every) > 30
    silent = [
        f"{name} {parameter.name}"
        for name, command in every
        for parameter in command.params
        if parameter.name != "help" and not getattr(parameter, "help", None)
    ]
    assert silent == []


NAMES = [name for name, command in commands(typer.main.get_command(app)) if not getattr(command, "commands", {})]


@pytest.mark.parametrize("name", NAMES)
def test_no_help_is_cut_off_at_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer shortened long names to `--positive-abo…`, which nobody can type."""
    words = name.split()[1:]
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    text = CliRunner().invoke(app, [*words, "--help"], terminal_width=80).output
    command = dict(commands(typer.main.get_command(app)))[name]
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= 80
    options = [word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)]
    assert [word for word in options if word.startswith("--") and word not in text] == []


def test_the_options_of_a_long_command_stand_under_headings() -> None:
    text = CliRunner().invoke(app, ["dataset", "add", "--help"]).output
    places = [
        text.index(f"\u2500 {title} \u2500") for title in ("Options", "Labels", "DICOM", "Tables", "Masks and NIfTI")
    ]
    assert places == sorted(places)
    assert places[1] < text.index("--label-column") < places[2] < text.index("--suv") < places[3]
