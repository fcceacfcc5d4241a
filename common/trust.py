"""A member's installed trust: the newest kit and all earlier rosters.

trust/kit.json          the installed kit; replaced atomically, so that a refused or interrupted join changes nothing
trust/rosters/*.json    every roster by serial, for running jobs and transcripts
trust/*.crt             written from kit.json at every start, because OpenSSL reads files
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from salus.common.certificates import authority_hash, check_issued, check_signed, only_certificate, public_pem
from salus.common.clock import Clock
from salus.common.errors import ConfigError, IdentityError, RosterError, SalusError
from salus.common.files import write_whole
from salus.common.identity import Identity, Signed, load_private_key, unhex
from salus.common.kit import MAX_KIT_BYTES, NODE_KEY, SIGNING_KEY, TRANSPORT_KEY, Kit, read_json, read_kit, write_json
from salus.common.roster import Roster, open_roster, read_roster, roster_hash
from salus.common.strict import validate

TRUST, KIT, ROSTERS = "trust", "kit.json", "rosters"
AUTHORITY, CERTIFICATE = "authority.crt", "transport.crt"
KEEPS = "The installed kit stays in place."


def require_settings(folder: Path, name: str, command: str) -> None:
    """Raise ConfigError unless a folder has the settings file of the member that a command is for."""
    if not (folder / name).exists():
        raise ConfigError(
            f"{folder.name!r} has no {name}: it is not the folder that `{command} init` created.",
            remedy="Use `salus client join` for a site and `salus server join` for the coordinator.",
        )


def install_kit(folder: Path, kit: Kit, clock: Clock) -> Roster:
    """Check a kit against this member's keys and the installed kit, then install it atomically.

    The first kit pins the consortium's key. Later ones are checked in the same way, whether a person brings them or, at a
    site, the coordinator sends them.

    Raises:
        IdentityError: signed by another consortium, with a TLS authority that is not on the roster, or another member's kit.
        RosterError: expired, older than the installed roster, different from an installed roster with the same serial, or
            with another number for this site.
    """
    roster = open_roster(kit.roster, unhex(kit.consortium_key), clock)
    trust = folder / TRUST
    if not trust.exists():
        _check_own(folder, kit, roster, clock)
        (trust / ROSTERS).mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(trust):  # a person and the daemon may install at the same time
        installed = read_kit(trust / KIT) if (trust / KIT).exists() else None
        if installed is not None:
            _check_follows(kit, roster, installed)
            _check_number(folder, roster, installed)
        _check_own(folder, kit, roster, clock)
        (trust / ROSTERS).mkdir(mode=0o700, exist_ok=True)
        _keep(trust / ROSTERS, kit.roster, roster)
        write_json(trust / KIT, kit)
        _write_certificates(trust, kit)
    return roster


@contextlib.contextmanager
def _only_one(trust: Path) -> Iterator[None]:
    """Wait until no other process changes an installed kit."""
    handle = os.open(trust, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _check_follows(kit: Kit, roster: Roster, installed: Kit) -> None:
    """Check that a kit is from the pinned consortium and not older than the installed one."""
    if kit.consortium_key != installed.consortium_key:
        raise IdentityError(
            f"This kit is from a different consortium than the one that this member joined. {KEEPS}",
            remedy="To join another consortium, create a new folder.",
        )
    before = _read(installed)
    if roster.serial < before.serial:
        raise RosterError(
            f"This kit has roster {roster.serial}, but roster {before.serial} is installed. {KEEPS}",
            remedy="Install the newest kit.",
        )
    if roster.serial == before.serial and roster_hash(kit.roster) != roster_hash(installed.roster):
        raise RosterError(
            f"The roster in this kit has the same serial, {roster.serial}, as the installed one, but different contents. {KEEPS}",
            remedy="Stop here: the consortium's key signed two rosters with one serial. Call the consortium.",
        )


def _check_number(folder: Path, roster: Roster, installed: Kit) -> None:
    """Check that a site keeps its number, by which ledgers and cohorts know it."""
    own = Identity.load(folder / "keys" / SIGNING_KEY).public_key.hex()
    before = {site.public_key: site.id for site in _read(installed).sites}
    now = {site.public_key: site.id for site in roster.sites}
    if own in before and own in now and before[own] != now[own]:
        raise RosterError(
            f"This kit gives this site the number {now[own]}, but it is site {before[own]}. {KEEPS}",
            remedy="A site's number never changes. Call the consortium.",
        )


def _check_own(folder: Path, kit: Kit, roster: Roster, clock: Clock) -> None:
    """Check that a kit is for this member and consistent."""
    if authority_hash(kit.authority) != roster.authority_sha256:
        raise IdentityError(
            f"The certificate authority in this kit is not the one that the signed roster names. {KEEPS}",
            remedy="The kit was changed in transit. Ask the consortium to send it again by another channel.",
        )
    own = Identity.load(folder / "keys" / SIGNING_KEY).public_key
    if roster.coordinator.public_key != own.hex():
        site = roster.site(roster.id_of(own))  # raises if this member is not on the roster
        node = load_private_key(folder / "keys" / NODE_KEY)
        if not isinstance(node, ec.EllipticCurvePrivateKey) or public_pem(node).strip() != site.node_key.strip():
            raise IdentityError(
                f"The roster in this kit has a different node key for this member. {KEEPS}",
                remedy="Send this member's request to the consortium again.",
            )
    transport = load_private_key(folder / "keys" / TRANSPORT_KEY)
    if not isinstance(transport, ec.EllipticCurvePrivateKey):
        raise IdentityError("Expected an elliptic-curve transport key.", remedy="Restore the key from a backup.")
    check_issued(kit.certificate, kit.authority, transport.public_key(), clock.now(), roster.valid_until)
    for other in kit.sites:
        check_signed(other.certificate, kit.authority)


def _read(kit: Kit) -> Roster:
    return read_roster(kit.roster, unhex(kit.consortium_key))


def _keep(rosters: Path, signed: Signed, roster: Roster) -> None:
    path = rosters / f"{roster.serial:06d}.json"
    if path.exists() and roster_hash(_signed(path)) != roster_hash(signed):
        raise RosterError(
            f"A different roster with the serial {roster.serial} was installed before. {KEEPS}",
            remedy="Stop here: the consortium's key signed two rosters with one serial. Call the consortium.",
        )
    write_whole(path, signed.to_bytes())


def _write_certificates(trust: Path, kit: Kit) -> None:
    for path, text in _certificates(trust, kit).items():
        if not _has(path, text):
            write_whole(path, text.encode())


def _certificates(trust: Path, kit: Kit) -> dict[Path, str]:
    return {
        trust / AUTHORITY: only_certificate(kit.authority, "authority"),
        trust / CERTIFICATE: only_certificate(kit.certificate, "transport"),
    }


def _has(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(errors="replace") == text


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def _signed(path: Path) -> Signed:
    return validate(Signed, read_json(path, "roster", MAX_KIT_BYTES), error=ConfigError, what="roster")


@dataclass(frozen=True)
class Trust:
    """The installed kit, checked.

    Args:
        newest: the roster of the installed kit.
        digest: its hash, see `roster_hash`.
        stamp: tells the kit's file from one that was installed later.
    """

    folder: Path
    kit: Kit
    newest: Roster
    digest: str
    stamp: tuple[int, int, int]
    clock: Clock

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> "Trust":
        """Read the installed kit and check its signature and dates again.

        Raises:
            ConfigError: nothing is installed yet, or a file is damaged.
            IdentityError, RosterError: as in `open_roster`.
        """
        trust = folder / TRUST
        if not (trust / KIT).exists():
            raise ConfigError(
                f"{folder.name!r} has not joined a consortium yet.",
                remedy="Install the kit from the consortium with `salus client join` or `salus server join`.",
            )
        stamp = _stamp(trust / KIT)  # before it is read: a kit that replaces it in between is read again
        kit = read_kit(trust / KIT)
        roster = open_roster(kit.roster, unhex(kit.consortium_key), clock)
        if not all(_has(path, text) for path, text in _certificates(trust, kit).items()):
            with _only_one(trust):
                _write_certificates(trust, read_kit(trust / KIT))
        return cls(trust, kit, roster, roster_hash(kit.roster), stamp, clock)

    @property
    def replaced(self) -> bool:
        """Whether another kit has been installed since."""
        return _stamp(self.folder / KIT) != self.stamp

    def current(self) -> "Trust":
        """Return the kit that is installed now; this one if it is not replaced, or if its successor cannot be used."""
        if not self.replaced:
            return self
        try:
            return Trust.open(self.folder.parent, self.clock)
        except SalusError:
            return self

    @property
    def consortium_key(self) -> bytes:
        """The pinned key of the consortium, 32 bytes."""
        return unhex(self.kit.consortium_key)

    def signed(self, digest: str) -> Signed:
        """Return a signed roster that is or was installed; raises RosterError for an unknown hash."""
        if digest == self.digest:
            return self.kit.roster
        for path in sorted((self.folder / ROSTERS).glob("*.json")):
            signed = _signed(path)
            if roster_hash(signed) == digest:
                return signed
        raise RosterError(
            "This member has never installed the roster of this request.",
            remedy=f"Install the newest kit at every member; roster {self.newest.serial} is installed here.",
        )

    def roster(self, digest: str) -> Roster:
        """Return a roster that is or was installed, ignoring its dates; errors as in `signed`."""
        return self.newest if digest == self.digest else read_roster(self.signed(digest), self.consortium_key)
