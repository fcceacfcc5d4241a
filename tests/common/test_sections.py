"""A section of a job has the keys of the plug-ins that it names, and of no others."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from tests.builders import job_text, tiny_job

from salus.common import sections
from salus.common.errors import ConfigError, JobError
from salus.common.job import Aggregation, TaskSettings, Training, job_from_canonical, parse_job
from salus.common.models import MODELS
from salus.common.optimizers.sgd import Settings as SgdSettings
from salus.common.registry import Registry, settings_of, with_settings
from salus.common.strict import Strict

LOSSES = Registry("loss", "salus.tests.none", {"dice": "tests.common.test_sections:dice"})


class DiceSettings(Strict):
    """Settings.

    Args:
        smoothing: Added above and below.
    """

    smoothing: float = 1.0


@with_settings(DiceSettings)
def dice() -> None:
    """Stands for a loss."""


class NetSettings(Strict):
    """Settings.

    Args:
        width: Channels of the first layer.
        loss: What is minimised.
    """

    plugins: ClassVar = {"loss": LOSSES}

    width: int = 16
    loss: str = "dice"


@with_settings(NetSettings)
def net(task: TaskSettings) -> None:
    """Stands for a model with settings, and with a plug-in of its own."""


class Greedy(Strict):
    """Takes a key that the section has.

    Args:
        channels: Channels.
    """

    channels: int = 3


@with_settings(Greedy)
def greedy(task: TaskSettings) -> None:
    """Stands for a model whose settings collide."""


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    here = {name: f"{__name__}:{name}" for name in ("net", "greedy")}
    monkeypatch.setattr(MODELS, "_builtin", MODELS._builtin | here)
    monkeypatch.setattr(LOSSES, "_builtin", {"dice": f"{__name__}:dice"})
    yield
    sections.assemble.cache_clear()


def with_model(line: str, model: str = "net") -> str:
    return job_text(model=model).replace(f'model = "{model}"', f'model = "{model}"\n{line}')


@pytest.mark.usefixtures("models")
def test_a_plugin_and_its_own_plugins_bring_their_keys_with_defaults_and_bounds() -> None:
    job = parse_job(with_model("width = 8\nsmoothing = 0.5"))
    assert isinstance(job.task, TaskSettings)
    assert settings_of(job.task, NetSettings).width == 8
    assert settings_of(job.task, DiceSettings).smoothing == 0.5
    assert settings_of(parse_job(with_model("")).task, NetSettings).width == 16
    assert b'"width":8' in job.canonical_bytes()
    assert job_from_canonical(job.canonical_bytes()) == job
    assert hash(job) == hash(parse_job(with_model("width = 8\nsmoothing = 0.5")))
    with pytest.raises(JobError, match=r"task\.width: expected a whole number"):
        parse_job(with_model('width = "8"'))


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("widht = 8", r"unknown key 'task\.widht' \(did you mean 'width'\?\)"),
        ("smothing = 8", r"unknown key 'task\.smothing' \(did you mean 'smoothing'\?\)"),
        ('loss = "dise"', "Expected the loss to be one of dice; got 'dise'"),
    ],
)
def test_a_wrong_key_or_name_of_a_plugin_names_the_known_ones(line: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse_job(with_model(line))


@pytest.mark.usefixtures("models")
def test_two_owners_of_one_key_are_an_error_of_the_plugin() -> None:
    with pytest.raises(
        ConfigError, match="the section TaskSettings and the plug-in 'greedy' define the key 'channels'"
    ):
        parse_job(job_text(model="greedy"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            job_text(training="momentum = 0.5"),
            r"unknown key 'training\.momentum' \(it is known only with optimizer = \"sgd\"\)",
        ),
        (job_text(training='optimizer = "sgd"\nmomentum = 1.5'), r"training\.momentum: .*less than 1"),
        (job_text(training='optimizer = "sdg"'), "Expected the optimizer to be one of adam, adamw, sgd; got 'sdg'"),
        (job_text(protection="encryption"), r"missing key 'aggregation\.key_holder'"),
        (
            job_text(protection='masking"\nkey_holder = 2\nstrategy = "fedavg'),
            r"known only with protection = \"encryption\"",
        ),
        (job_text(protection='none"\nstrategy = "fedavg"\nserver_momentum = 0.5 #'), r"aggregation\.server_momentum"),
        (job_text(protection='none"\nserver_momentum = 0.5 #'), "Expected no aggregation.server_momentum"),
        (job_text() + "[[task.transforms]]\nkind = 'no-such'", "Expected the transform to be one of"),
    ],
)
def test_a_key_of_a_plugin_that_is_not_named_is_refused(text: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse_job(text)


def test_the_keys_of_an_omitted_strategy_are_those_of_its_default() -> None:
    noised = job_text(protection='masking"\nserver_momentum = 0.5 #', privacy='noise = "local"')
    assert parse_job(noised).strategy == "fedavgm"
    assert tiny_job().strategy == "fedavg"


def test_sections_built_in_code_have_the_keys_of_their_plugins_too() -> None:
    training = Training(optimizer="sgd")
    assert settings_of(training, SgdSettings).momentum == 0.9
    assert type(training.changed(momentum=0.5)) is type(training)
    assert Training() == Training(optimizer="adamw")
    assert type(Aggregation()).__name__ == "Aggregation[fedavg,fedavgm,masking]"
    with pytest.raises(JobError, match="keys momentum"):
        settings_of(Training(), SgdSettings)


def test_parsing_a_name_imports_nothing_that_is_not_registered(tmp_path: Path) -> None:
    for name in ("os:system", "../x", "a" * 200, ""):
        with pytest.raises(JobError):
            parse_job(job_text(training=f'optimizer = "{name}"'))
