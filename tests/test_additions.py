"""An addition takes one file, one test and one line in a registry, whatever its kind."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import salus
from salus.common.explain import words_of
from salus.common.registry import Registry, own_settings
from salus.common.strict import Strict
from salus.common.tasks.classification import ClassificationSettings

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    path: path.read_text()
    for folder in ("client", "common", "privacy", "server", "simulations")
    for path in (ROOT / folder).rglob("*.py")
}
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))


def registries() -> dict[str, Registry]:
    """Return every registry of Salus by its place, ``module:attribute``."""
    found = {}
    for module in pkgutil.walk_packages(salus.__path__, "salus."):
        path = ROOT / (
            module.name.removeprefix("salus.").replace(".", "/") + ("/__init__.py" if module.ispkg else ".py")
        )
        for name in re.findall(r"^([A-Z]+) = Registry\($", SOURCES.get(path, ""), re.M):
            found[f"{module.name}:{name}"] = getattr(importlib.import_module(module.name), name)
    return found


REGISTRIES = registries()


def test_there_is_a_registry_for_every_kind_of_addition_and_the_guide_names_it() -> None:
    groups = {registry.group for registry in REGISTRIES.values()}
    kinds = (
        "tasks",
        "models",
        "losses",
        "features",
        "transforms",
        "optimizers",
        "strategies",
        "sums",
        "protections",
        "sources",
        "trackers",
    )
    assert groups == {
        f"salus.{kind}" for kind in (*kinds, "subgroups", "partitioners", "benchmarks", "attacks", "explanations")
    }
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    for place in REGISTRIES:
        path = place.partition(":")[0].removeprefix("salus.").replace(".", "/")
        assert f"`{path}.py`" in guide or f"`{path}/__init__.py`" in guide, path


@pytest.mark.parametrize("place", REGISTRIES)
def test_an_entry_is_one_line_and_its_code_is_in_the_registrys_folder(place: str) -> None:
    folder = place.partition(":")[0].removesuffix(".protection")
    for name in REGISTRIES[place].names():
        reference = REGISTRIES[place].reference(name)
        if not reference.startswith("salus."):
            continue  # of another package
        assert reference.startswith(f"{folder}."), reference
        lines = [line for text in SOURCES.values() for line in text.splitlines() if f'"{reference}"' in line]
        assert len(lines) == 1, f"{name} is named in {len(lines)} lines"


@pytest.mark.parametrize("place", [place for place in REGISTRIES if not place.endswith("BENCHMARKS")])
def test_every_entry_has_a_test(place: str) -> None:
    for name in REGISTRIES[place].names():
        module, _, attribute = REGISTRIES[place].reference(name).partition(":")
        assert f"import {attribute}" in TESTS or f'"{name}"' in TESTS or f"{module} import" in TESTS, name


@pytest.mark.parametrize("place", [place for place in REGISTRIES if not place.endswith("BENCHMARKS")])
def test_the_settings_of_an_entry_are_strict_and_explained(place: str) -> None:
    for name in REGISTRIES[place].names():
        settings = own_settings(REGISTRIES[place].get(name))
        if settings is not None:
            assert issubclass(settings, Strict), name
            unexplained = {key for key in settings.model_fields if not words_of(settings)[key].meaning}
            assert unexplained <= {"kind"}, name  # which the section explains


def test_a_colon_in_the_second_line_of_an_explanation_does_not_cut_it() -> None:
    assert words_of(ClassificationSettings)["class_weights"].meaning.endswith(
        "`salus stats --weights` writes this key."
    )
