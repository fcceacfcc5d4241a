"""The coordinator's SQLite file is copied before its tables change; a new file, and one that is up to date, are not."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from salus.common.keeping import kept
from salus.common.sqlite import open_sqlite
from salus.server import migrations


def test_an_older_file_is_kept_before_its_tables_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "coordinator.sqlite"
    engine = open_sqlite(path)
    migrations.migrate(engine)
    migrations.migrate(engine)
    assert kept(path) == []
    monkeypatch.setattr(migrations, "HEAD", "0002")
    monkeypatch.setattr(
        migrations, "_upgrade", lambda connection: connection.exec_driver_sql("CREATE TABLE newer (n INTEGER)")
    )
    migrations.migrate(engine)
    (copy,) = kept(path)
    assert copy.name == "coordinator.sqlite.kept-0001"
    assert "newer" in sa.inspect(engine).get_table_names()
    assert "newer" not in sa.inspect(open_sqlite(copy)).get_table_names()
    assert "jobs" in sa.inspect(open_sqlite(copy)).get_table_names()
