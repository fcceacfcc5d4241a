"""Documents are true: sample jobs parse, commands in README exist, links lead somewhere, examples in docstrings run."""

import doctest
import importlib
import pkgutil
import re
import runpy
import shlex
from pathlib import Path
from typing import ClassVar

import pytest
import typer

import salus
from salus.cli import app
from salus.common.job import load_job, parse_job
from salus.common.registry import Registry, with_settings
from salus.common.strict import Strict
from salus.server.checks import check_job

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("path", sorted((ROOT / "simulations" / "jobs").glob("*.toml")), ids=lambda path: path.name)
def test_sample_jobs_parse_and_could_run(path: Path) -> None:
    check_job(load_job(path), sites=100)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_jobs_in_documents_parse(path: Path) -> None:
    for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.S):
        if "[job]" in block:
            parse_job(block)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(path: Path) -> None:
    group = typer.main.get_command(app)
    for block in re.findall(r"```(?:sh|bash)\n(.*?)```", path.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.split("#")[0])
            if words[:1] == ["salus"]:
                command, rest = group, words[1:]
                while hasattr(command, "commands"):
                    command, rest = command.commands[rest[0]], rest[1:]
                command.make_context(words[1], rest)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def modules() -> list[str]:
    return [m.name for m in pkgutil.walk_packages(salus.__path__, "salus.") if "flower_stock" not in m.name]


def test_examples_in_docstrings_run() -> None:
    tried = 0
    for name in modules():
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, name
        tried += result.attempted
    assert tried > 5


def test_every_public_thing_has_a_docstring() -> None:
    import ast

    for name in ("client", "common", "privacy", "server", "simulations"):
        for path in (ROOT / name).rglob("*.py"):
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no docstring"
            for node in tree.body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{path.relative_to(ROOT)}:{node.name} has no docstring"


def test_the_reference_is_current_and_explains_every_key() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate_reference.py"))["page"]()
    assert (ROOT / "docs" / "reference.md").read_text() == page, "run: python docs/generate_reference.py"
    rows = [re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row[1] for row in rows if not row[4].strip()] == []


class Part(Strict):
    """A part that may hold another one.

    Args:
        inner: The part within.
    """

    plugins: ClassVar[dict[str, str]] = {"inner": "tests.test_docs:PARTS"}
    inner: str = "one"


@with_settings(Part)
def part() -> None:
    """Nothing is built in this test."""


PARTS = Registry("part", "salus.no-parts", {"one": "tests.test_docs:part"})


def test_a_plugin_that_names_its_own_registry_is_listed_once() -> None:
    section = runpy.run_path(str(ROOT / "docs" / "generate_reference.py"))["_section"]
    titles = [line for line in section(Part, "[outer]") if line.startswith("\n###")]
    assert titles == ["\n### [outer]\n", '\n### [outer] with inner = "one"\n']


def test_the_conformance_table_is_current() -> None:
    path = ROOT / "docs" / "data.md"
    written = runpy.run_path(str(ROOT / "docs" / "generate_conformance.py"))["page"](path.read_text())
    assert path.read_text() == written, "run: python docs/generate_conformance.py"
