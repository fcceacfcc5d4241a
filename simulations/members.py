"""The consortium of a simulation: a roster of the virtual sites, signed as a real one, so that its records can be checked alike.

Its key is made for one simulation and kept nowhere; whoever has the folder could have made the whole run.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from salus.common.clock import Clock
from salus.common.identity import Identity, Signed
from salus.common.kit import SIGNING_KEY, Kit, write_json
from salus.common.roster import Roster, RosterCoordinator, RosterSite, seal_roster
from salus.common.trust import KIT, TRUST
from salus.privacy.records.transcripts import ROSTER
from salus.server.transcripts import Transcript

NAME = "Simulation"
DAYS = 3650
NO_NETWORK = "none: a simulation has no network"  # in place of certificates


def found_consortium(folder: Path, keys: Mapping[int, bytes], clock: Clock) -> tuple[Identity, Signed]:
    """Make a coordinator, write its key and kit to its folder, and return it with the signed roster of the sites."""
    coordinator, consortium, now = Identity.generate(), Identity.generate(), clock.now()
    roster = Roster(
        consortium=NAME,
        serial=1,
        valid_from=now - timedelta(minutes=5),
        valid_until=now + timedelta(days=DAYS),
        authority_sha256="0" * 64,
        coordinator=RosterCoordinator(
            name="Coordinator", url="https://localhost", public_key=coordinator.public_key.hex()
        ),
        sites=tuple(
            RosterSite(id=site, name=f"site-{site}", public_key=key.hex(), node_key=f"{NO_NETWORK} ({site})")
            for site, key in sorted(keys.items())
        ),
    )
    signed = seal_roster(roster, consortium)
    (folder / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
    coordinator.save(folder / "keys" / SIGNING_KEY)
    (folder / TRUST).mkdir(exist_ok=True)
    kit = Kit(
        name="Coordinator",
        consortium_key=consortium.public_key.hex(),
        authority=NO_NETWORK,
        certificate=NO_NETWORK,
        roster=signed,
    )
    write_json(folder / TRUST / KIT, kit)
    return coordinator, signed


def begin_transcript(path: Path, roster: Signed) -> Transcript:
    """Return a new transcript that begins with its roster."""
    transcript = Transcript(path)
    transcript(ROSTER, signed=roster.model_dump(mode="json"))
    return transcript
