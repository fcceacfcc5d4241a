"""Every error that Salus raises on purpose, in one tree.

    SalusError                     exit code
    ├── JobError                   10  a job file or a signed job that cannot be accepted
    │   └── StartError             15  weights that a job cannot start from, or that are not those it names
    │       └── NoStart            16  they are not here
    ├── ConfigError                11  a configuration or policy file that cannot be accepted
    ├── IdentityError              12  keys, signatures, certificates
    │   └── RosterError            13  the consortium's list of sites
    ├── PackageError               14  a model package that is damaged, changed or incomplete
    ├── DataError                  20  a data set that cannot be registered or read
    │   └── UnreadableImage        21  one file that cannot be read; quarantined and counted, never fatal
    ├── WireError                  30  bytes from the other side that do not parse or do not fit
    ├── LinkError                  31  the other side cannot be reached or refuses us
    │   └── Outdated               32  the other side speaks newer versions of the protocol only
    ├── Refused                    40  a site refuses what was asked
    │   ├── OtherPast              47  a site without what it should have kept of earlier rounds
    │   ├── OutsideHours           46  a site that works at other hours, which are named
    │   ├── UnfitError             44  a job needs what a site's data set does not declare
    │   └── LedgerError            42  nothing is reserved, or the ledger is not valid
    │       └── BudgetError        43  a patient's privacy budget would be exceeded
    ├── ProtectionError            41  an update cannot be protected, or protected updates cannot be combined
    │   └── NotOpened              45  too few sites contributed data to a sum, so it is not opened
    ├── RoundError                 50  a round or a job that cannot go on
    └── StorageError               60  this machine cannot read or write: disk full, read-only, damaged, no permission
                                   70  `salus doctor` found something that does not work

A message says what was expected, what was received, and what to do. It never contains a secret, a patient's value or an
absolute path, because it may be sent to the other side of the federation or written to a log.
"""

import errno
from datetime import datetime, timedelta


class SalusError(Exception):
    """Base class of all errors with a message for the user.

    Args:
        problem: what was expected and what was received, in one sentence.
        remedy: what to do about it, in one sentence.
    """

    exit_code = 1

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class JobError(SalusError):
    """A job file or a signed job cannot be accepted."""

    exit_code = 10


class StartError(JobError):
    """A job's start cannot be used: other weights than the job names, or weights that do not fit its model."""

    exit_code = 15


class NoStart(StartError):
    """The weights with which a job starts are not here."""

    exit_code = 16


class ConfigError(SalusError):
    """A configuration or policy file cannot be accepted."""

    exit_code = 11


class IdentityError(SalusError):
    """A key, signature or certificate is missing, wrong or expired."""

    exit_code = 12


class RosterError(IdentityError):
    """The consortium's list of sites is not valid for this member or at this time."""

    exit_code = 13


class PackageError(SalusError):
    """A model package is damaged, changed or incomplete."""

    exit_code = 14


class DataError(SalusError):
    """A data set cannot be registered or read."""

    exit_code = 20


class UnreadableImage(DataError):
    """One file cannot be read.

    Args:
        reason: a short fixed word for counting, such as ``truncated``.
    """

    exit_code = 21

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(
            f"{reason}: {detail}", remedy="The file is quarantined; replace it and add the data set again."
        )
        self.reason = reason
        self.detail = detail


class WireError(SalusError):
    """Bytes from the other side do not parse or do not fit what was agreed."""

    exit_code = 30


class LinkError(SalusError):
    """The other side cannot be reached, or refuses the connection."""

    exit_code = 31


class Outdated(LinkError):
    """This side is too old for the other side of a connection; it works again when it is upgraded."""

    exit_code = 32


class Refused(SalusError):
    """A site refuses a request; it decides this before any data are read."""

    exit_code = 40


class OtherPast(Refused):
    """A site does not have what it should have kept of earlier rounds, or has it from other rounds than the coordinator's."""

    exit_code = 47


class OutsideHours(Refused):
    """A site works at other hours.

    Args:
        at: when it works again, in its local time.
        now: the current time.
    """

    exit_code = 46

    def __init__(self, at: datetime, now: datetime) -> None:
        when = f"{at:%H:%M}" if at - now < timedelta(days=1) else f"{at:%Y-%m-%d %H:%M}"
        super().__init__(
            f"This site works at other hours and waits until {when} of its local time ({at:%Y-%m-%dT%H:%M:%S%z}).",
            remedy="No action is needed: the coordinator asks again.",
        )


class UnfitError(Refused):
    """A job needs what a site's data set does not declare; the message says nothing about a patient, so anyone may read it."""

    exit_code = 44


class LedgerError(Refused):
    """Nothing is reserved for the request, or the site's ledger is not valid."""

    exit_code = 42


class BudgetError(LedgerError):
    """A patient's privacy budget would be exceeded; only the site's operator sees the numbers."""

    exit_code = 43


class ProtectionError(SalusError):
    """An update cannot be protected, or the protected updates cannot be combined."""

    exit_code = 41


class NotOpened(ProtectionError):
    """A sum is not opened: too few sites contributed data, or other sites than to an earlier sum over the same data.

    Args:
        required: fewest sites that must contribute, a public number.
        detail: the reason with names of sites, for the operator of the refusing site; never sent.
    """

    exit_code = 45

    def __init__(self, required: int, *, detail: str) -> None:
        super().__init__(
            f"The sum was not opened: fewer than {required} sites contributed data to it, or other sites than to an "
            "earlier sum over this data set.",
            remedy="The sites' operators see the reason in their logs. Check that the job's data set, classes and columns fit "
            "every site.",
        )
        self.detail = detail


class RoundError(SalusError):
    """A round or a job cannot go on."""

    exit_code = 50


class StorageError(SalusError):
    """This machine cannot read or write a file: full, read-only, damaged, locked, or not permitted.

    Args:
        no_space: whether the disk cannot take data: full, over its quota, or read-only.
    """

    exit_code = 60

    def __init__(self, problem: str, *, remedy: str, no_space: bool = False) -> None:
        super().__init__(problem, remedy=remedy)
        self.no_space = no_space


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
STORAGE_PROBLEMS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "Free some space and run the command again; data written earlier are intact."),
    errno.EDQUOT: (
        "the disk quota is used up",
        "Free some space, or ask for a larger quota, and run the command again.",
    ),
    errno.EFBIG: (
        "the file would be larger than allowed",
        "Raise the limit on file sizes (ulimit -f) and run it again.",
    ),
    errno.EROFS: ("the file system is read-only", "Mount it with write access, or choose another folder."),
    errno.EACCES: ("permission is denied", "Run as the user who owns the folder, or correct its permissions."),
    errno.EPERM: ("the operation is not permitted", "Run as the user who owns the folder, or correct its permissions."),
    errno.EIO: (
        "the disk reports an error",
        "Check the disk; if it is failing, replace it and restore the folder from a backup.",
    ),
    errno.EMFILE: ("too many files are open", "Raise the limit on open files (ulimit -n, or LimitNOFILE in systemd)."),
    errno.ENFILE: ("the machine has too many open files", "Raise fs.file-max, or stop other programs."),
    errno.ENOENT: ("the file or its folder does not exist", "Check the path."),
    errno.ENOTDIR: ("part of the path is not a folder", "Check the path."),
    errno.EEXIST: ("it already exists", "Move it, or choose another path."),
    errno.EISDIR: ("it is a folder", "Give the path of a file."),
}


def storage_error(problem: OSError) -> StorageError | None:
    """Return the problem with a file and the remedy, without its folder; None if storage is not the problem."""
    known = STORAGE_PROBLEMS.get(problem.errno or 0)
    if known is None:
        return None
    name = str(problem.filename or "").rstrip("/").rsplit("/", 1)[-1]
    what = f"Cannot use the file {name!r}" if name else "Cannot read or write a file"
    return StorageError(f"{what}: {known[0]}.", remedy=known[1], no_space=problem.errno in NO_SPACE)


def no_space(problem: BaseException) -> bool:
    """Whether this machine's own disk cannot take data: full, over its quota, or read-only. It says nothing about a patient."""
    if isinstance(problem, StorageError):
        return problem.no_space
    return isinstance(problem, OSError) and problem.errno in NO_SPACE


def describe(error: BaseException) -> str:
    """Return the text that may be sent to the other side or logged: our own message, never a library's.

    Guarantees: the text of any other exception is dropped, because it may hold a path or a patient's value.
    """
    if isinstance(error, OSError):
        error = storage_error(error) or error
    if isinstance(error, SalusError):
        return str(error)
    return f"An unexpected {type(error).__name__} occurred. See the local log of the process where it happened."


def where(problem: BaseException) -> str:
    """Return file names and lines of the traceback, without messages or folders."""
    places = []
    trace = problem.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places[-6:])
