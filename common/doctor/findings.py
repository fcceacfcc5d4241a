"""What a check found: one finding for each check, with a fixed word for its cause and a sentence for whoever can mend it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from salus import __version__

FAILED_EXIT = 70  # of `salus doctor` when a check failed; no other command ends with it
Status = Literal["ok", "notice", "failed", "skipped"]
# In the order in which they are shown. Only these words and those of `CAUSES` go into a support file.
CHECKS = (
    "folder", "files", "policy", "certificate", "roster", "dns", "proxy", "connection", "tls", "link", "clock",
    "protocol", "newest roster", "round trip", "throughput", "daemon", "sites", "storage", "memory", "descriptors", "gpu", "data",
    "job", "round",
)  # fmt: skip
CAUSES = (
    "", "unreadable", "not-joined", "expired", "ends-soon", "wrong-key", "dns-no-such-name", "dns-no-answer",
    "tcp-no-answer", "tcp-refused", "tcp-no-route", "tcp-failed", "proxy-not-http", "proxy-asks-for-password",
    "proxy-forbids", "proxy-failed", "proxy-unknown-kind", "not-tls", "tls-failed", "intercepted", "other-certificate",
    "wrong-host", "closed", "not-on-roster", "clock-wrong", "clock-off", "older-coordinator", "older-site",
    "other-protocol", "answer-not-understood", "older-roster", "newer-roster", "slow", "not-running", "waits",
    "not-connected", "port-taken", "cannot-listen", "other-owner", "not-allowed", "full", "nearly-full", "read-only",
    "low", "too-low", "none-found", "driver", "torch-without-gpu", "trouble", "no-data",
    "refused", "job-invalid", "too-few-sites", "not-measured",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        check: its name, one of `CHECKS`.
        found: what there is, in one sentence for the person at this machine; never a secret or a patient's value.
        cause: a fixed word, one of `CAUSES`; empty if nothing is wrong.
        remedy: what the person at this machine can do.
        network_team: a request that can be sent as it is to those who run network and firewall; empty if they are not needed.
        values: measured numbers, and fixed words.
    """

    check: str
    status: Status
    found: str
    cause: str = ""
    remedy: str = ""
    network_team: str = ""
    values: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.check in CHECKS, self.check
        assert self.cause in CAUSES, self.cause


@dataclass(frozen=True)
class Report:
    """All findings about one folder.

    Args:
        role: ``site`` or ``coordinator``.
    """

    role: str
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, role: str, findings: Iterable[Finding]) -> "Report":
        """Return a report with its findings in the order of `CHECKS`."""
        return cls(role, tuple(sorted(findings, key=lambda finding: CHECKS.index(finding.check))))

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return all(finding.status != "failed" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        checks = [{**asdict(finding), "values": dict(finding.values)} for finding in self.findings]
        return {"role": self.role, "version": __version__, "healthy": self.healthy, "checks": checks}


def skipped(check: str, because: str) -> Finding:
    """Return the finding of a check that could not be made."""
    return Finding(check, "skipped", because)
