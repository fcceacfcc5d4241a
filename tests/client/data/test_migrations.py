import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from salus.client.data.catalogue import Catalogue
from salus.client.data.migrations import HEAD, migrate
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.schema import METADATA
from salus.client.data.sealing import Sealer
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.targets import Target
from salus.common.errors import DataError
from salus.common.sqlite import open_sqlite

OLDEST = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
CREATE TABLE datasets (name VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, root VARCHAR NOT NULL, options VARCHAR NOT NULL,
    added_at VARCHAR NOT NULL);
CREATE TABLE images (id INTEGER PRIMARY KEY, dataset VARCHAR NOT NULL REFERENCES datasets (name) ON DELETE CASCADE,
    patient VARCHAR NOT NULL, study VARCHAR NOT NULL, "key" VARCHAR NOT NULL, label VARCHAR NOT NULL,
    split VARCHAR NOT NULL, sha256 VARCHAR NOT NULL, info VARCHAR NOT NULL);
CREATE TABLE quarantine (id INTEGER PRIMARY KEY, dataset VARCHAR NOT NULL, "key" VARCHAR NOT NULL,
    reason VARCHAR NOT NULL, detail VARCHAR NOT NULL);
INSERT INTO datasets VALUES ('old', 'dicom', '/nowhere', '{}', '2026-01-01');
INSERT INTO quarantine VALUES (1, 'old', 'DOE^JOHN.dcm', 'damaged', 'DOE^JOHN.dcm cannot be decoded');
INSERT INTO images VALUES (1, 'old', 'p', 's', 'k', 'l', '', 'abc', '{"rows": 3}');
"""


BEFORE_TARGETS = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0004');
CREATE TABLE datasets (name VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, root VARCHAR NOT NULL, options VARCHAR NOT NULL,
    added_at VARCHAR NOT NULL, declaration VARCHAR DEFAULT '' NOT NULL);
CREATE TABLE images (id INTEGER PRIMARY KEY, dataset VARCHAR NOT NULL REFERENCES datasets (name) ON DELETE CASCADE,
    patient VARCHAR NOT NULL, study VARCHAR NOT NULL, "key" VARCHAR NOT NULL, label VARCHAR NOT NULL,
    split VARCHAR NOT NULL, sha256 VARCHAR NOT NULL, info VARCHAR NOT NULL, pixel_sha256 VARCHAR DEFAULT '' NOT NULL);
CREATE INDEX ix_images_dataset ON images (dataset);
CREATE TABLE quarantine (id INTEGER PRIMARY KEY, dataset VARCHAR NOT NULL, "key" VARCHAR NOT NULL,
    reason VARCHAR NOT NULL, detail VARCHAR NOT NULL);
CREATE INDEX ix_quarantine_dataset ON quarantine (dataset);
CREATE TABLE troubles (dataset VARCHAR PRIMARY KEY, since VARCHAR NOT NULL, problem VARCHAR NOT NULL,
    keys VARCHAR NOT NULL);
INSERT INTO datasets VALUES ('old', 'nifti', '{root}', '{options}', '2026-11-26',
    '{"version": 1, "kind": "images", "classes": ["1"], "dimensions": [3], "channels": [1]}');
INSERT INTO images VALUES (7, 'old', 'p', 's', '{key}', '1', '', 'abc', '{"rows": 3, "channels": 1}', 'd');
"""


def execute(path: Path, script: str) -> None:
    engine = open_sqlite(path)
    with engine.begin() as connection:
        for statement in script.split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def test_an_older_catalogue_is_brought_forward_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    execute(path, OLDEST)
    catalogue = Catalogue(path, b"s" * 16)
    assert [(image.sha256, image.key) for image in catalogue.images("old")] == [("abc", "k")]
    assert catalogue.quarantined("old") == [Quarantined("DOE^JOHN.dcm", "damaged", "DOE^JOHN.dcm cannot be decoded")]
    assert catalogue.summary("old").root == "nowhere"
    with open_sqlite(path).connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"DOE^JOHN" not in path.read_bytes()
    assert [(fact.pixel_sha256, fact.info) for fact in catalogue.facts("old")] == [("", {"rows": 3})]
    added = ImageRecord("p", "s", "k", "l", pixel_sha256="f")
    catalogue.add_records("new", "dicom", tmp_path, SourceOptions(), [added])
    assert Catalogue(path, b"s" * 16).names() == ["new", "old"]


def test_a_catalogue_of_the_version_before_annotations_opens_and_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    seal = Sealer(b"s" * 16, "catalogue").seal
    script = BEFORE_TARGETS.replace("{root}", seal(str(tmp_path))).replace("{key}", seal("k"))
    execute(path, script.replace("{options}", seal('{"masks": "labels"}')))
    catalogue = Catalogue(path, b"s" * 16)
    (image,) = catalogue.images("old")
    assert (image.key, image.sha256, dict(image.targets)) == ("k", "abc", {})
    assert [fact.targets for fact in catalogue.facts("old")] == [{}]
    assert catalogue.summary("old").targets == {}
    declared = catalogue.declarations.all()["old"]
    assert declared is not None
    assert (declared.classes, declared.targets) == (("1",), ())
    mask = Target("mask", {"tumour": 1.0})
    added = [ImageRecord("p", "s", "k", ""), ImageRecord("q", "s", "l", "", targets={"mask": mask})]
    catalogue.add_records("new", "nifti", tmp_path, SourceOptions(), added)
    assert [dict(image.targets) for image in catalogue.images("new")] == [{}, {"mask": "mask"}]
    assert [fact.targets for fact in Catalogue(path, b"s" * 16).facts("new")] == [{}, {"mask": mask}]


def test_the_migrated_schema_is_the_one_in_the_code(tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "c.sqlite")
    migrate(engine, str.upper)
    inspector = sa.inspect(engine)
    for table in METADATA.sorted_tables:
        found = {column["name"]: column["nullable"] for column in inspector.get_columns(table.name)}
        assert found == {column.name: bool(column.nullable) for column in table.columns}
        indexed = {tuple(index["column_names"]) for index in inspector.get_indexes(table.name)}
        assert indexed == {tuple(column.name for column in index.columns) for index in table.indexes}
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == HEAD


@pytest.mark.parametrize("version", ["9999", ""])
def test_a_catalogue_of_an_unknown_version_is_refused_and_left_alone(tmp_path: Path, version: str) -> None:
    path = tmp_path / "c.sqlite"
    execute(path, OLDEST.replace("'0001'", f"'{version}'"))
    with pytest.raises(DataError, match="is too old"):
        Catalogue(path, b"s" * 16)
    with open_sqlite(path).connect() as connection:
        assert json.loads(connection.scalar(sa.text("SELECT info FROM images"))) == {"rows": 3}
