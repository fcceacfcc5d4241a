"""Each reader owns its options: unknown ones are refused by name, whoever gives them, and old catalogues still open."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import write_npz
from tests.client.data.dicom_files import write
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.schema import DATASETS
from salus.client.data.sources import SOURCES, open_source
from salus.client.data.sources.base import Files
from salus.client.data.sources.settings import (
    ONCE_SHARED,
    ReaderSettings,
    SourceOptions,
    options_in,
    settings_class,
    settings_for,
)
from salus.common.errors import DataError
from salus.common.strict import Strict

OURS = [kind for kind in SOURCES.names() if SOURCES.reference(kind).startswith("salus.")]
KEYS = {kind: set(settings_class(SOURCES.get(kind)).model_fields) for kind in OURS}
EVERY_KEY = sorted(set().union(*KEYS.values()))


class LineSettings(Strict):
    """Settings of `Lines`.

    Args:
        separator: between the patient and the label.
        skip: lines at the beginning that are no samples.
    """

    separator: str = ","
    skip: int = 0


class Lines:
    """A reader from another package: every line of a file is a sample. It runs in the child."""

    Settings = LineSettings

    @staticmethod
    def prepare() -> None:
        """Do nothing."""

    def __init__(self, files: Files, options: LineSettings) -> None:
        self._files, self._options = files, options

    def wants(self, name: str) -> bool:
        return name.endswith(".lines")

    def group(self, name: str) -> str:
        return ""

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        for name in names:
            lines = bytes(self._files.read(name)).decode().splitlines()[self._options.skip :]
            for number, line in enumerate(lines):
                patient, label = line.split(self._options.separator)
                info = {"rows": 1, "columns": 1, "channels": 1}
                yield ImageRecord(patient, patient, f"{name}/{number}", label, sha256=f"{number:064x}", info=info)  # type: ignore[arg-type]

    def load(self, key: str) -> Sample:
        raise NotImplementedError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "packages" / "lines-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lines\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[salus.sources]\nlines = {__name__}:Lines\n")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))


@pytest.mark.usefixtures("installed")
def test_a_reader_of_another_package_brings_its_own_options_from_the_command_line_to_the_sandboxed_child(
    tmp_path: Path,
) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    (data / "a.lines").write_text("a title; of two\n" + "".join(f"P{i};{i % 2}\n" for i in range(8)))
    run = CliRunner()
    init_site(site, "S")
    wanted = ["--option", "separator=;", "--option", "skip=1"]
    done = run.invoke(app, ["dataset", "add", str(site), "d", str(data), "--kind", "lines", *wanted, "--yes"])
    assert done.exit_code == 0, done.output
    catalogue = open_catalogue(site)
    assert catalogue.summary("d").patients == 8
    assert catalogue.reading("d") == 'lines {"separator":";","skip":1}'
    again = [item for item in catalogue.source("d").scan() if isinstance(item, ImageRecord)]
    assert [item.label for item in again] == [str(i % 2) for i in range(8)]
    for wrong, words in (
        ("seperator=;", "did you mean 'separator'"), ("skip=many", "skip"), ("masks=m", "separator, skip"), ("skip", "key=value"),
    ):  # fmt: skip
        refused = run.invoke(
            app, ["dataset", "add", str(site), "e", str(data), "--kind", "lines", "--option", wrong, "--yes"]
        )
        assert isinstance(refused.exception, DataError), wrong
        assert words in str(refused.exception), refused.exception


@pytest.mark.parametrize("kind", OURS)
def test_every_option_that_a_reader_does_not_know_is_refused_with_the_kinds_that_do(kind: str) -> None:
    for key in sorted(set(EVERY_KEY) - KEYS[kind]):
        with pytest.raises(DataError) as caught:
            settings_for(kind, SourceOptions(**{key: "x"}))
        assert f"--kind {kind}" in str(caught.value)
        assert all(f"--kind {other}" in str(caught.value) for other in KEYS if key in KEYS[other]), key


def test_a_misspelt_option_names_the_nearest_and_a_wrong_value_its_key(tmp_path: Path) -> None:
    write_npz(tmp_path / "toy.npz")
    with pytest.raises(DataError, match=r"--kind dicom .*did you mean 'volumes'"):
        open_source("dicom", tmp_path, SourceOptions(volume=True))
    with pytest.raises(DataError, match="volumes"):
        open_source("dicom", tmp_path, SourceOptions(volumes="yes"))
    with pytest.raises(DataError, match=r"--kind medmnist .*'masks'.*--kind nifti"):
        open_source("medmnist", tmp_path / "toy.npz", SourceOptions(masks="m"))


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
VALUES = {
    str: TEXT, bool: st.booleans(), int: st.integers(0, 99), tuple[str, ...]: st.lists(TEXT, max_size=3).map(tuple),
    float | None: st.none() | st.floats(allow_nan=False, allow_infinity=False),
}  # fmt: skip


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_options_cross_as_json_and_come_back_the_same(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KEYS)))
    model = settings_class(SOURCES.get(kind))
    keys = data.draw(st.sets(st.sampled_from(sorted(KEYS[kind]))))
    given_ = {key: data.draw(VALUES[model.model_fields[key].annotation]) for key in keys}  # type: ignore[index]
    found = settings_for(kind, SourceOptions(**given_))
    assert model.model_validate_json(found.model_dump_json()) == found
    assert {key: getattr(found, key) for key in given_} == given_


def test_a_value_is_read_as_its_option_needs_it() -> None:
    assert options_in("nifti", ["label_column=2", "structures=liver, tumour", "positive_above=0.5", "unlabelled=true"]) == {
        "label_column": "2", "structures": ["liver", "tumour"], "positive_above": 0.5, "unlabelled": True,
    }  # fmt: skip


def test_a_data_set_from_before_readers_had_their_own_options_opens_as_it_was_registered(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", np.array([[1, 2], [3, 4]], np.int16), PatientID="P1")
    (tmp_path / "l.csv").write_text("PatientID,finding\nP1,a\n")
    path = tmp_path / "c.sqlite"
    catalogue = Catalogue(path, b"s" * 16)
    catalogue.add("old", "dicom", tmp_path, SourceOptions(labels="l.csv", label_column="finding"))
    before = catalogue.reading("old")
    shared = dict.fromkeys(ONCE_SHARED, "") | {
        "labels": "l.csv", "label_column": "finding", "volumes": False, "columns": [], "missing": ["", "?", "NA", "NaN", "nan"],
        "zero_pad_ids": 0, "include": [],
        "positive_above": None, "structures": [], "unlabelled": False, "numbers": [], "row": [], "images": "*.nii",
    }  # fmt: skip
    write_options(catalogue, shared)
    assert catalogue.reading("old") == before
    assert [item.label for item in catalogue.source("old").scan() if isinstance(item, ImageRecord)] == ["a"]
    write_options(catalogue, {**shared, "newer": 1})
    with pytest.raises(DataError, match="'newer'"):
        catalogue.source("old")


def write_options(catalogue: Catalogue, options: dict[str, object]) -> None:
    with catalogue._engine.begin() as connection:
        connection.execute(sa.update(DATASETS).values(options=catalogue._sealer.seal(json.dumps(options))))


def test_the_child_refuses_options_that_are_not_of_its_reader(tmp_path: Path) -> None:
    from salus.client.data.sources.local import LocalFiles
    from salus.client.data.sources.remote import Remote

    class Other(ReaderSettings):
        unheard_of: str = "x"

    reference = SOURCES.reference("images")
    with pytest.raises(Exception, match=r"(?i)options|crash|damaged|unheard_of"):
        Remote(reference, LocalFiles(tmp_path, Other()), Other(), Decoding())
