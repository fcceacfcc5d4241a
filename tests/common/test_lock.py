"""One daemon for a folder; whoever asks whether it runs leaves nothing behind, not even as another user."""

from pathlib import Path

import pytest

from salus.common.errors import ConfigError
from salus.common.lock import FolderLock, is_running


def test_a_second_daemon_is_refused_and_the_question_makes_no_file(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    assert list(tmp_path.iterdir()) == []
    lock = FolderLock(tmp_path)
    assert is_running(tmp_path)
    with pytest.raises(ConfigError, match="already running"):
        FolderLock(tmp_path)
    lock.close()
    assert not is_running(tmp_path)
    FolderLock(tmp_path).close()
