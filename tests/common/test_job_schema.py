"""The JSON Schema accepts what Salus accepts, key by key."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.builders import job_text
from tests.cli import salus

from salus.common.job import Aggregation, TaskSettings, Training, TransformSettings
from salus.common.job_schema import job_schema
from salus.common.registry import own_settings
from salus.common.sections import Section, registry_at

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return job_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted((ROOT / "simulations" / "jobs").glob("*.toml")), ids=lambda path: path.name)
def test_every_sample_job_fits(validator: Draft202012Validator, path: Path) -> None:
    validator.validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (job_text(), True),
        ("format = 1\n" + job_text(), True),
        ("format = 2\n" + job_text(), False),
        (job_text().replace("rounds", "ronds"), False),
        (job_text(training="momentum = 0.5"), False),
        (job_text(training='optimizer = "sgd"\nmomentum = 0.5'), True),
        (job_text(training='optimizer = "sgd"\nmomentum = 1.5'), False),
        (job_text(training='optimizer = "sgdd"'), False),
        (job_text(protection="encryption"), False),
        (job_text(protection='encryption"\nkey_holder = 2 #'), True),
        (job_text(protection='masking"\nkey_holder = 2 #'), False),
        (job_text(protection='masking"\nstrategy = "fedavg"\nserver_momentum = 0.5 #'), False),
        (job_text(protection='masking"\nstrategy = "fedavgm"\nserver_momentum = 0.5 #'), True),
    ],
)
def test_a_key_is_accepted_where_its_plugin_is_named(validator: Draft202012Validator, text: str, fits: bool) -> None:
    assert validator.is_valid(tomllib.loads(text)) == fits


@pytest.mark.parametrize("section", [TaskSettings, TransformSettings, Training, Aggregation])
def test_every_installed_plugin_and_key_is_offered_with_its_meaning(
    schema: dict[str, Any], section: type[Section]
) -> None:
    choices = schema["$defs"][section.__name__]["allOf"]
    for (key, place), choice in zip(section.plugins.items(), choices, strict=True):
        tables: list[dict[str, Any]] = choice["oneOf"]
        registry = registry_at(place)
        for name in registry.names():
            mine = [table for table in tables if name in table["properties"].get(key, {}).get("enum", ())]
            assert mine, name
            settings = own_settings(registry.get(name))
            for own in set(settings.model_fields) - set(section.model_fields) if settings is not None else ():
                assert all(table["properties"][own].get("description") for table in mine), (name, own)


@pytest.mark.parametrize("section", [TaskSettings, TransformSettings, Training, Aggregation])
def test_a_choice_lists_the_keys_of_its_own_plugins_only(schema: dict[str, Any], section: type[Section]) -> None:
    table = schema["$defs"][section.__name__]
    assert table["unevaluatedProperties"] is False
    for key, choice in zip(section.plugins, table["allOf"], strict=True):
        for one in choice["oneOf"]:
            assert not one["properties"].keys() & (table["properties"].keys() | (section.plugins.keys() - {key}))


@pytest.mark.parametrize(
    ("model", "extra", "fits"),
    [
        ("logistic", "", True),
        ("mlp", "", True),
        ("mlp", "layers = [4]", True),
        ("logistic", "layers = [4]", False),  # a key of another model
        ("logistic", 'class_loss = "focal"', True),
        ("logistic", 'class_loss = "focal"\nfocusing = 1.0', True),
        ("logistic", "focusing = 1.0", False),  # a key of a plug-in's plug-in that is not named
        ("mlp", 'layers = [4]\nclass_loss = "focal"\nfocusing = 1.0', True),
    ],
)
def test_the_keys_of_task_and_model_are_accepted_together(
    validator: Draft202012Validator, model: str, extra: str, fits: bool
) -> None:
    text = job_text(model=model).replace("shape = [8, 8]", f"shape = [8, 8]\n{extra}")
    assert validator.is_valid(tomllib.loads(text)) == fits


def test_the_command_prints_the_schema(schema: dict[str, Any]) -> None:
    result = salus("job", "schema")
    assert result.returncode == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(schema))
