"""`salus ledger verify` on a ledger that was restored from a backup."""

from pathlib import Path

from tests.cli import salus
from tests.server.test_consortium import CLOCK, found

from salus.client.config import open_ledger
from salus.client.session_store import SqliteSessionStore
from salus.common.kit import read_kit
from salus.common.trust import install_kit
from salus.privacy.protocol.head import Head


def test_a_restored_ledger_is_not_called_intact(tmp_path: Path) -> None:
    _, kits = found(tmp_path)
    site = tmp_path / "site-2"
    install_kit(site, read_kit(kits[2]), CLOCK)
    ledger, sessions = open_ledger(site, CLOCK), SqliteSessionStore(site / "sessions.sqlite")
    assert salus("ledger", "verify", site).returncode == 0
    sessions.ledger_seen(2, ledger.head())
    assert salus("ledger", "verify", site).returncode == 0
    sessions.ledger_seen(2, Head(3, bytes([7]) * 32))  # the site had three entries before the backup was restored
    restored = salus("ledger", "verify", site)
    assert restored.returncode == 41
    assert "it had 3 entries" in restored.stderr
