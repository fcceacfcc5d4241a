"""A member's installed trust: the newest kit and all earlier rosters.

trust/kit.json          the installed kit; replaced atomically, so that a refused or interrupted join changes nothing
trust/rosters/*.json    every roster by serial, for running jobs and transcripts
trust/*.crt             written from kit.json at every start, because OpenSSL reads files
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from salus.common.certificates import authority_hash, check_issued, only_certificate, public_pem
from salus.common.clock import Clock
from salus.common.errors import ConfigError, IdentityError, RosterError
from salus.common.files import write_whole
from salus.common.identity import Identity, Signed, load_private_key, unhex
from salus.common.kit import NODE_KEY, SIGNING_KEY, TRANSPORT_KEY, Kit, read_json, read_kit, write_json
from salus.common.roster import Roster, open_roster, read_roster, roster_hash
from salus.common.strict import validate

TRUST, KIT, ROSTERS = "trust", "kit.json", "rosters"
AUTHORITY, CERTIFICATE = "authority.crt", "transport.crt"
KEEPS = "The installed kit stays in place."


def install_kit(folder: Path, kit: Kit, clock: Clock) -> Roster:
    """Check a kit against this member's keys and the installed kit, then install it atomically.

    The first kit pins the consortium's key.

    Raises:
        IdentityError: signed by another consortium, with a TLS authority that is not on the roster, or another member's kit.
        RosterError: expired, older than the installed roster, or different from an installed roster with the same serial.
    """
    roster = open_roster(kit.roster, unhex(kit.consortium_key), clock)
    installed = read_kit(folder / TRUST / KIT) if (folder / TRUST / KIT).exists() else None
    if installed is not None:
        _check_follows(kit, roster, installed)
    _check_own(folder, kit, roster, clock)
    trust = folder / TRUST
    (trust / ROSTERS).mkdir(mode=0o700, parents=True, exist_ok=True)
    _keep(trust / ROSTERS, kit.roster, roster)
    write_json(trust / KIT, kit)
    _write_certificates(trust, kit)
    return roster


def _check_follows(kit: Kit, roster: Roster, installed: Kit) -> None:
    """Check that a kit is from the pinned consortium and not older than the installed one."""
    if kit.consortium_key != installed.consortium_key:
        raise IdentityError(
            f"This kit is from a different consortium than the one that this member joined. {KEEPS}",
            remedy="To join another consortium, create a new folder.",
        )
    before = read_roster(installed.roster, unhex(installed.consortium_key))
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
    check_issued(kit.certificate, kit.authority, transport.public_key(), clock.now())


def _keep(rosters: Path, signed: Signed, roster: Roster) -> None:
    path = rosters / f"{roster.serial:06d}.json"
    if path.exists() and roster_hash(_signed(path)) != roster_hash(signed):
        raise RosterError(
            f"A different roster with the serial {roster.serial} was installed before. {KEEPS}",
            remedy="Stop here: the consortium's key signed two rosters with one serial. Call the consortium.",
        )
    write_whole(path, signed.to_bytes())


def _write_certificates(trust: Path, kit: Kit) -> None:
    for name, what, pem in ((AUTHORITY, "authority", kit.authority), (CERTIFICATE, "transport", kit.certificate)):
        path, text = trust / name, only_certificate(pem, what)
        if not path.exists() or path.read_text(errors="replace") != text:
            write_whole(path, text.encode())


def _signed(path: Path) -> Signed:
    return validate(Signed, read_json(path, "roster"), error=ConfigError, what="roster")


@dataclass(frozen=True)
class Trust:
    """The installed kit, checked.

    Args:
        newest: the roster of the installed kit.
        digest: its hash, see `roster_hash`.
    """

    folder: Path
    kit: Kit
    newest: Roster
    digest: str

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
        kit = read_kit(trust / KIT)
        roster = open_roster(kit.roster, unhex(kit.consortium_key), clock)
        _write_certificates(trust, kit)
        return cls(trust, kit, roster, roster_hash(kit.roster))

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
