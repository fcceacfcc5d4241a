import sqlite3
from pathlib import Path

import pytest

from salus.client.config import LEDGER, init_site, open_catalogue, open_ledger, pseudonym_key
from salus.client.data.pseudonyms import key_fingerprint
from salus.common.clock import SystemClock
from salus.common.errors import ConfigError, LedgerError


def test_another_pseudonym_key_does_not_restart_every_budget(tmp_path: Path) -> None:
    site = tmp_path / "site"
    init_site(site, "S")
    open_ledger(site, SystemClock())
    key = site / "keys" / "pseudonym.key"
    own = key.read_bytes()
    key.chmod(0o600)
    key.write_bytes(b"k" * 32)
    for opening in (open_catalogue, lambda folder: open_ledger(folder, SystemClock())):
        with pytest.raises(LedgerError, match="started with the pseudonym key") as refused:
            opening(site)  # type: ignore[operator]
        assert "Restore keys/pseudonym.key" in str(refused.value)
        assert own.hex() not in str(refused.value)
        assert key_fingerprint(own) in str(refused.value)
    key.write_bytes(own)
    open_ledger(site, SystemClock())


def test_the_first_data_set_already_fixes_the_key(tmp_path: Path) -> None:
    site = tmp_path / "site"
    init_site(site, "S")
    open_catalogue(site)
    (site / "keys" / "pseudonym.key").write_bytes(b"k" * 32)
    with pytest.raises(LedgerError):
        open_ledger(site, SystemClock())


def test_what_the_ledger_remembers_of_the_key_cannot_be_changed(tmp_path: Path) -> None:
    site = tmp_path / "site"
    init_site(site, "S")
    open_ledger(site, SystemClock())
    with sqlite3.connect(site / LEDGER) as connection:
        for statement in ("DELETE FROM pseudonym_key", "UPDATE pseudonym_key SET fingerprint = 'x'"):
            with pytest.raises(sqlite3.IntegrityError, match="never changes"):
                connection.execute(statement)


def test_a_missing_or_damaged_key_is_not_a_new_site(tmp_path: Path) -> None:
    site = tmp_path / "site"
    init_site(site, "S")
    (site / "keys" / "pseudonym.key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="found 5"):
        pseudonym_key(site)
    (site / "keys" / "pseudonym.key").unlink()
    with pytest.raises(ConfigError, match="Restore it from the backup"):
        pseudonym_key(site)
    with pytest.raises(ConfigError, match="not a site's folder"):
        pseudonym_key(tmp_path)
