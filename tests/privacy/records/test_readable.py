"""The card for people says what the records say, under the usual headings, and nothing in it is markup of somebody else."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.packages import plain_job

from salus.common.package import layout
from salus.common.package.checking import checked_package
from salus.privacy.records.card import ModelCard
from salus.privacy.records.privacy import PrivacyRecord
from salus.privacy.records.readable import Records, readable_files

HEADINGS = (
    "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data", "Quantitative analyses",
    "Ethical considerations: privacy of the patients", "Caveats and recommendations",
)  # fmt: skip


@pytest.fixture
def records(private_package: Path) -> Records:
    with checked_package(private_package) as package:
        return Records(
            package.job, package.roster, package.document(ModelCard, layout.CARD),
            package.document(PrivacyRecord, layout.PRIVACY), package.json(layout.EVALUATION), package.json(layout.VERSIONS), 2,
        )  # fmt: skip


def card_of(records: Records) -> str:
    return readable_files(records)[layout.MODEL_CARD].decode()


def test_the_card_has_the_usual_headings_and_the_numbers_of_the_records(
    records: Records, private_package: Path
) -> None:
    text = card_of(records)
    assert tuple(line[3:] for line in text.splitlines() if line.startswith("## ")) == HEADINGS
    assert text == (private_package / layout.MODEL_CARD).read_text()
    assert "(3, 1e-05)-differential privacy per patient" in text
    assert "Groups of patients that were compared: sex" in text
    assert "Intended purpose: not recorded" in text
    assert "| site-1 | 2 | 2.35" in text
    assert "Sums that the hospitals signed: 2" in text


def test_what_is_missing_is_said(records: Records) -> None:
    bare = {"sites": {}, "subgroups": {}, "not_evaluated": "Too few sites."}
    text = card_of(replace(records, evaluation=bare, sums=None))
    assert "the model was not evaluated at the hospitals" in text
    assert "The model was not evaluated by subgroup" in text
    assert "Too few sites" in text
    open_job = plain_job()
    assert "Left the hospitals: only protected sums" in card_of(replace(records, job=open_job))
    shown = {"aggregation": open_job.aggregation.changed(protection="none")}
    both = readable_files(replace(records, job=open_job.model_copy(update=shown)))
    for name in (layout.MODEL_CARD, layout.DOCUMENTATION):
        assert "the update of each hospital, which the coordinator could read" in both[name].decode()


@pytest.mark.parametrize("hostile", [{"sites": 7, "subgroups": [1], "test": "x"}, {"sites": {"a": {"value": "x"}}}])
def test_a_damaged_evaluation_is_no_error(records: Records, hostile: dict[str, object]) -> None:
    assert "Quantitative analyses" in card_of(replace(records, evaluation=hostile))


def test_texts_are_no_markup(records: Records) -> None:
    """Names of members cannot hold markup; what a dishonest coordinator writes into an evaluation can."""
    hostile = {"sites": {"a|b <script>": 0.5}, "not_evaluated": "# <img src=x> [x](y) `z` \x1b[2J\n## Released"}
    text = card_of(replace(records, evaluation=hostile))
    assert "<script>" not in text
    assert "<img" not in text
    assert r"a\|b &lt;script&gt;" in text
    assert r"\[x\](y) \`z\`" in text
    assert not any(line.startswith("## Released") for line in text.splitlines())


def test_the_same_records_in_another_order_give_the_same_card(records: Records) -> None:
    turned = dict(reversed(list(records.evaluation.items())))
    turned["sites"] = dict(reversed(list(records.evaluation["sites"].items())))
    assert card_of(replace(records, evaluation=turned)) == card_of(records)
