"""What a third party can check of an encrypted sum: every signature, the order, the cohort, the consents and the ledgers."""

import pytest
from tests.builders import tiny_job
from tests.privacy.encryption.world import World

from salus.common.errors import ProtectionError
from salus.common.identity import Identity
from salus.common.job import Job
from salus.privacy.encryption.coordinator import Step
from salus.privacy.encryption.transcript import EncryptedCheck
from salus.privacy.protocol.session import manifest_hash
from salus.privacy.protocol.transcript import Verified, verify_transcript

Entries = list[dict[str, object]]
JOB = tiny_job(protection='encryption"\nkey_holder = 2\nstrategy = "fedavg')


def world_of(job: Job, *, noised: bool = False) -> World:
    world = World(6, holder=2, noised=noised)
    manifest = manifest_hash(job.canonical_bytes(), "train", world.shape.parameters, world.shape.statistics)
    world.session = type(world.session)("job-1", 1, 0, manifest, b"g" * 32, tuple(world.keys))
    world.sites = {site: world.site(site) for site in world.keys}
    world.record = []
    world.coordinator = type(world.coordinator)(
        world.session, world.shape, world.packing, world.holder, world.keys, world.note, noised=noised
    )
    world.until(Step.DONE, {Step.UPLOADING: [6]})
    world.record.insert(0, {"kind": "job", "document": job.canonical_bytes().decode()})
    return world


@pytest.fixture(scope="module")
def world() -> World:
    return world_of(JOB)


def verify(entries: Entries, world: World) -> Verified:
    return verify_transcript(entries, world.keys, EncryptedCheck)


def test_what_was_signed_holds(world: World) -> None:
    verified = verify(world.record, world)
    (line,) = verified.sums
    assert line == {"round": 1, "attempt": 0, "kind": "train", "sites": [1, 2, 3, 4, 5], "consents": 5}
    assert [verified.sent[site]["train"] for site in world.keys] == [1, 1, 1, 1, 1, 0]


CHANGES = [
    ("session", {"round": 2}, "session id"),
    ("session", {"roster": [1, 2, 3, 4, 5]}, "session id"),
    ("uploaded", {"root": "00" * 32}, "upload of site 1"),
    ("uploaded", {"site": 6}, "upload of site 6"),
    ("uploaded", {"signature": "zz"}, "damaged"),
    ("consent", {"signature": "00" * 64}, "consent of site 1"),
    ("consent", {"site": 3}, "consent of site 3"),
    ("survivors", {"sites": [1, 2, 3, 4, 5, 6]}, "not over the sites that"),
    ("sum", {"sites": [1, 2, 3, 4]}, "not over the sites that"),
    ("sum", {"kind": "coffee"}, "unknown kind"),
]


@pytest.mark.parametrize(("kind", "fields", "text"), CHANGES)
def test_a_changed_entry_is_found(world: World, kind: str, fields: dict[str, object], text: str) -> None:
    place = next(number for number, entry in enumerate(world.record) if entry["kind"] == kind)
    entries = [{**entry, **fields} if number == place else entry for number, entry in enumerate(world.record)]
    with pytest.raises(ProtectionError, match=text):
        verify(entries, world)


def test_an_entry_left_out_or_repeated_is_found(world: World) -> None:
    for gone in ("uploaded", "survivors"):
        place = next(number for number, entry in enumerate(world.record) if entry["kind"] == gone)
        with pytest.raises(ProtectionError):
            verify([*world.record[:place], *world.record[place + 1 :]], world)
    upload = next(entry for entry in world.record if entry["kind"] == "uploaded")
    place = world.record.index(upload)
    with pytest.raises(ProtectionError, match="upload of site 1 is repeated"):
        verify([*world.record[:place], upload, *world.record[place:]], world)
    without = [entry for entry in world.record if entry["kind"] != "consent" or entry["site"] != 2]
    with pytest.raises(ProtectionError, match="key holder did not consent"):
        verify(without, world)
    with pytest.raises(ProtectionError, match="5 sites with 1 consents"):
        verify([entry for entry in world.record if entry["kind"] != "consent" or entry["site"] == 2], world)


def test_another_roster_does_not_verify_it(world: World) -> None:
    stranger = {**world.keys, 1: Identity.generate().public_key}
    with pytest.raises(ProtectionError, match="site 1"):
        verify_transcript(world.record, stranger, EncryptedCheck)


def test_ledger_heads_of_noised_jobs_are_checked() -> None:
    noised = tiny_job(
        protection='encryption"\nkey_holder = 2\nstrategy = "fedavg',
        privacy='noise = "local"\nepsilon = 8.0\nclip_norm_l2 = 1.0',
    )
    world = world_of(noised, noised=True)
    assert verify(world.record, world).sums
    place = next(number for number, entry in enumerate(world.record) if entry["kind"] == "consent")
    spoiled = {**world.record[place], "ledger": "00" * 104}
    with pytest.raises(ProtectionError, match="ledger"):
        verify([*world.record[:place], spoiled, *world.record[place + 1 :]], world)
