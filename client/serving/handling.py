"""What an operator does with a node's folder, also while the node runs: look at it, try a failed study again, discard it."""

from pathlib import Path

from salus.client.serving.spool import KEPT, RESULTS, SPOOL, remove_files
from salus.client.serving.studies import DISCARDED, FAILED, FILE, PREDICTED, RECEIVED, SENT, Studies, Study
from salus.common.errors import ConfigError, DataError
from salus.common.lock import NAME as LOCK

EVENTS = "events.jsonl"
OWN = {LOCK, FILE, EVENTS, SPOOL, RESULTS, KEPT}


def open_folder(folder: Path, *, create: bool) -> None:
    """Check that a folder is a node's, or create it.

    Raises:
        ConfigError: it holds something else, or is none.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder.name!r} is not a folder.", remedy="Choose another name.")
    found = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if found - OWN and FILE not in found:
        raise ConfigError(
            f"The folder {folder.name!r} is not empty and holds no queue.", remedy="Choose a new or empty folder."
        )
    if not create and FILE not in found:
        raise ConfigError(f"{folder.name!r} is not a node's folder.", remedy="Start one: salus serve start FOLDER.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def failure(failed: list[Study]) -> DataError:
    """Return the error with which a command ends where studies have failed."""
    first = failed[-1]
    return DataError(
        f"{len(failed)} {'study has' if len(failed) == 1 else 'studies have'} failed; the first is number {first.id} "
        f"({first.reason}).",
        remedy="See salus serve status FOLDER; then salus serve retry or discard.",
    )


def retry(studies: Studies, study: Study) -> str:
    """Let a failed study be tried again, or one that was sent be predicted on again when it arrives; return what happens now.

    Raises:
        ConfigError: it has not ended, or its files are gone.
    """
    again = {"begun": 0, "tries": 0, "due_at": studies.due(), "reason": "", "detail": ""}
    if study.state == FAILED and study.files:
        state = PREDICTED if study.objects else RECEIVED
        if studies.change(study.id, FAILED, state=state, **again):
            return "It is tried again."
    if study.state == SENT:
        studies.forget(study.study_uid)
        return "Its files are no longer here: send it again from the PACS. It will be predicted on anew."
    raise ConfigError(
        f"Study {study.id} is {study.state} and cannot be tried again{'' if study.files else ': its files are gone'}.",
        remedy="Send it again from the PACS, or wait until it ends.",
    )


def discard(folder: Path, studies: Studies, study: Study) -> None:
    """Remove a failed study's files; raises ConfigError if it has not failed."""
    if not studies.change(study.id, FAILED, state=DISCARDED, files=False):
        raise ConfigError(
            f"Study {study.id} is {study.state}, not failed.", remedy="Only failed studies are discarded."
        )
    remove_files(folder, study)
