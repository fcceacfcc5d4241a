"""The consent, the same code for both secure sums: on disk before it is signed, and only for what this site was shown."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.privacy.masking.world import identity, refused

from salus.common.errors import NotOpened, ProtectionError
from salus.privacy.contribution import DataKind
from salus.privacy.protocol.consent import SiteConsent
from salus.privacy.protocol.contributors import Consent, Statement
from salus.privacy.protocol.head import Head
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.store import MemoryStore
from salus.privacy.protocol.tables import write_table

KEYS = {site: identity(site).public_key for site in range(1, 8)}
SESSION = Session("job-1", 1, 0, b"m" * 32, b"g" * 32, tuple(KEYS))
EVERYONE = frozenset(KEYS)
COVERED = b"the list of survivors"


def party(site: int, *, noised: bool = False, minimum: int = 2) -> SiteParty:
    store = MemoryStore()
    store.open_session(SESSION.id, "data/0")
    head = (lambda: Head(3, bytes([site]) * 32)) if noised else None
    return SiteParty(site, identity(site), KEYS, store, minimum, os.urandom, "data/0", head)


def consents(*, noised: bool) -> dict[int, SiteConsent]:
    return {site: SiteConsent(SESSION, party(site, noised=noised), "masking", 0) for site in KEYS}


@pytest.mark.parametrize("noised", [False, True])
def test_what_all_sites_gave_is_accepted_by_each(noised: bool) -> None:
    sites = consents(noised=noised)
    given = {site: mine.give(EVERYONE, COVERED) for site, mine in sites.items()}
    assert {len(row) for row in given.values()} == {64 + (104 if noised else 0)}
    for mine in sites.values():
        mine.check_given(write_table(given), EVERYONE, COVERED)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda given: {**given, 3: given[4]}, "consent of site 3 does not verify"),
        (lambda given: {site: given[site] for site in (1, 2, 3, 4)}, "consents of 5 sites, got 4"),
        (lambda given: {**given, 9: given[4]}, "Site 9 consented but is not among the survivors"),
    ],
)
def test_forged_missing_and_foreign_consents_are_refused(
    change: Callable[[dict[int, bytes]], dict[int, bytes]], text: str
) -> None:
    sites = consents(noised=False)
    given = {site: mine.give(EVERYONE, COVERED) for site, mine in sites.items()}
    refused(lambda: sites[1].check_given(write_table(change(given)), EVERYONE, COVERED), text)


def test_a_site_that_was_shown_another_list_does_not_accept_the_consents() -> None:
    sites = consents(noised=False)
    given = {site: mine.give(EVERYONE, COVERED) for site, mine in sites.items() if site != 1}
    refused(lambda: sites[1].check_given(write_table(given), EVERYONE, b"another list"), "different lists")


def test_nothing_is_signed_before_the_consent_is_on_disk() -> None:
    class Full(MemoryStore):
        def consent(self, session: bytes, consent: Consent) -> None:
            raise ProtectionError("the disk is full", remedy="")

    class Silent:
        def sign_raw(self, statement: bytes) -> bytes:
            raise AssertionError("signed before it was stored")

    mine = replace(party(1), store=Full(), identity=Silent())  # type: ignore[arg-type]
    refused(lambda: SiteConsent(SESSION, mine, "masking", 0).give(EVERYONE, COVERED), "the disk is full")


def test_a_second_consent_in_a_session_is_refused() -> None:
    mine = SiteConsent(SESSION, party(1), "masking", 0)
    mine.give(EVERYONE, COVERED)
    refused(lambda: mine.give(EVERYONE - {7}, b"fewer"), "consent was already given")


def test_the_largest_of_all_minimums_counts() -> None:
    mine = SiteConsent(SESSION, party(1, minimum=6), "masking", 0)
    mine.check_count(6)
    refused(lambda: mine.check_count(5), "at least 6 sites, got 5")
    said = {site: Statement(DataKind.TRAINING if site <= 5 else DataKind.NONE) for site in KEYS}
    with pytest.raises(NotOpened):
        mine.contributors(said)
    assert SiteConsent(SESSION, party(1), "masking", 5).contributors(said) is not None


def test_with_noise_nothing_is_stated_and_nobody_is_counted() -> None:
    mine = SiteConsent(SESSION, party(1, noised=True), "masking", 0)
    assert mine.statement(DataKind.ALL) == Statement()
    assert mine.contributors({}) is None


def test_a_session_over_another_roster_is_refused() -> None:
    other = Session("job-1", 1, 0, b"m" * 32, b"g" * 32, (1, 2, 3, 4, 5, 6))
    refused(lambda: SiteConsent(other, party(1), "masking", 0), "whole pinned roster")


@pytest.mark.parametrize("noised", [False, True])
def test_no_sum_is_opened_with_a_member_that_was_removed(noised: bool) -> None:
    """The coordinator could otherwise go on with a job whose roster still has the removed hospital."""
    mine = SiteConsent(SESSION, replace(party(1, noised=noised), removed=frozenset({2, 5})), "masking", 0)
    refused(lambda: mine.check_survivors(EVERYONE - {5}), "Site 2 was removed")
    mine.check_survivors(EVERYONE - {2, 5})
