"""Every argument and option of every command says what it is."""

from collections.abc import Iterator
from typing import Any

import typer

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
