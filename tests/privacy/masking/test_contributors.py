"""A single hospital's update as "the sum over five": attacks on the masked sum that only one site contributes to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.privacy.masking.world import World, identity, refused

from salus.common.errors import NotOpened
from salus.privacy.contribution import DataKind
from salus.privacy.masking.keys import ShareChannel
from salus.privacy.masking.messages import BOX_BYTES, consent_statement
from salus.privacy.protocol.contributors import Statement
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.session import ids
from salus.privacy.protocol.tables import read_table, write_table


def until_consent(world: World, without: tuple[int, ...] = ()) -> dict[int, bytes]:
    """Run three exchanges and return what the coordinator asks each survivor to consent to."""
    requests = world.exchange(world.answers(world.exchange(world.adverts())))
    lists = world.exchange(world.answers(requests, without))
    assert lists is not None
    return dict(lists)


@pytest.mark.parametrize("contributing", [{3}, {1, 2, 3, 4}])
def test_a_sum_to_which_too_few_sites_contribute_is_never_opened(contributing: set[int]) -> None:
    world = World(6)
    world.inputs |= {s: np.zeros(6, np.uint32) for s in world.keys if s not in contributing}
    world.data |= {s: DataKind.NONE for s in world.keys if s not in contributing}
    lists = until_consent(world)
    for site in world.keys:
        with pytest.raises(NotOpened) as caught:
            world.sites[site].answer(lists[site])
        text = str(caught.value)
        assert "fewer than 5 sites contributed data" in text
        assert str(sorted(contributing)) in caught.value.detail
        assert str(sorted(contributing)) not in text, "the coordinator must not learn who contributed"
        assert world.stores[site].consents("data/0") == []
    refused(world.coordinator.close, "consents from at least 4 sites, got 0")


def test_with_enough_contributors_the_sum_is_right_and_sites_without_data_may_be_in_it() -> None:
    world = World(7)
    world.data |= {6: DataKind.NONE, 7: DataKind.NONE}
    assert np.array_equal(world.run(), world.expected())
    (agreed,) = world.stores[1].consents("data/0")
    assert agreed.contributors is not None
    assert agreed.contributors[DataKind.TRAINING] == {1, 2, 3, 4, 5}


def test_contributors_are_counted_over_the_announced_survivors_only() -> None:
    world = World(7)
    world.data |= {6: DataKind.NONE, 7: DataKind.NONE}
    lists = until_consent(world, without=(1,))
    with pytest.raises(NotOpened):
        world.sites[2].answer(lists[2])


@pytest.mark.parametrize("kind", [DataKind.VALIDATION, DataKind.MEASURED])
def test_every_kind_of_data_is_counted_by_itself(kind: DataKind) -> None:
    """Statistics of the only site with validation patients are as much its own as an update."""
    world = World(6)
    world.data[3] |= kind
    lists = until_consent(world)
    with pytest.raises(NotOpened) as caught:
        world.sites[1].answer(lists[1])
    assert kind.words in caught.value.detail


@pytest.mark.parametrize("whose", ["own", "peer's"])
def test_the_largest_minimum_of_all_survivors_counts(whose: str) -> None:
    world = World(7)
    asking, asked = (1, 1) if whose == "own" else (4, 1)
    world.sites[asking] = world.site(asking, cohort=7)
    world.data[7] = DataKind.NONE
    lists = until_consent(world)
    with pytest.raises(NotOpened):
        world.sites[asked].answer(lists[asked])


def test_with_noise_nothing_is_stated_or_counted() -> None:
    world = World(6, noised=True)
    world.data |= dict.fromkeys((2, 3, 4, 5, 6), DataKind.NONE)
    world.run()
    assert {site._statement for site in world.sites.values()} == {Statement()}


# Differences of sums: the replay after one site lost or gained data.


@pytest.mark.parametrize("change", ["lost", "gained"])
@pytest.mark.parametrize("job_id", ["job-1", "another"])
def test_a_second_sum_with_other_contributors_is_refused_in_every_job(change: str, job_id: str) -> None:
    first = World(7)
    first.data |= {7: DataKind.NONE} if change == "gained" else {}
    first.run()
    second = first.following(job_id=job_id)
    second.data[7] = DataKind.TRAINING if change == "gained" else DataKind.NONE
    lists = until_consent(second)
    for site in second.keys:
        with pytest.raises(NotOpened) as caught:
            second.sites[site].answer(lists[site])
        assert "earlier sum" in caught.value.detail
    refused(second.coordinator.close, "got 0")


def test_the_difference_of_the_two_sums_would_be_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack itself, with the check switched off: it must succeed, or the tests above prove nothing."""
    monkeypatch.setattr("salus.privacy.protocol.consent.check_contributors", lambda *_: {})
    first = World(7)
    whole = first.run()
    second = first.following(round_=1, job_id="another")
    second.inputs = {**first.inputs, 7: np.zeros(6, np.uint32)}
    second.data[7] = DataKind.NONE
    assert np.array_equal(whole - second.run(), first.inputs[7])


def test_kinds_that_nobody_contributed_do_not_hinder_a_later_sum() -> None:
    first = World(6)
    first.run()
    second = first.following()
    second.data = dict.fromkeys(second.keys, DataKind.TRAINING | DataKind.VALIDATION)
    second.run()
    third = second.following(round_=3)
    third.data = dict.fromkeys(third.keys, DataKind.MEASURED)
    third.run()


# A coordinator that lies about boxes, and a site that lies about itself.


def boxes_for(world: World) -> dict[int, dict[int, bytes]]:
    """Run two exchanges and return the boxes that each site is to get."""
    requests = world.exchange(world.answers(world.exchange(world.adverts())))
    assert requests is not None
    return {site: read_table(request, BOX_BYTES, "test") for site, request in requests.items()}


@pytest.mark.parametrize("which", ["another session's", "another sender's", "another receiver's", "a changed one"])
def test_a_wrong_box_in_place_of_a_statement_does_not_open(which: str) -> None:
    world = World(6)
    boxes = boxes_for(world)
    wrong = {
        "another session's": boxes_for(World(6, round_=2))[1][3],
        "another sender's": boxes[1][4],
        "another receiver's": boxes[2][3],
        "a changed one": boxes[1][3][:-17] + bytes([boxes[1][3][-17] ^ 1]) + boxes[1][3][-16:],  # in the statement
    }[which]
    refused(lambda: world.sites[1].answer(write_table({**boxes[1], 3: wrong})), "share from site 3 to site 1")


def test_the_coordinator_reads_no_statement_from_the_boxes() -> None:
    """Boxes of sites with and without data have the same length and no common part, so that nothing tells them apart."""
    world = World(6)
    world.data[2] = DataKind.NONE
    replies = world.answers(world.exchange(world.adverts()))
    boxes = [box for reply in replies.values() for box in read_table(reply, BOX_BYTES, "x").values()]
    assert {len(box) for box in boxes} == {BOX_BYTES} == {151}
    assert len({box[132:135] for box in boxes}) > 25


def test_an_unknown_kind_of_data_is_refused_by_name() -> None:
    world = World(6)
    requests = world.exchange(world.adverts())
    assert requests is not None
    liar = world.sites[3]
    liar._statement = type("Odd", (), {"to_bytes": lambda self: bytes([8, 0, 0])})()  # type: ignore[assignment]
    boxes = world.exchange(world.answers(requests))
    assert boxes is not None
    refused(lambda: world.sites[1].answer(boxes[1]), "statement of site 3")


def test_a_lying_site_that_equivocates_closes_sums_but_never_opens_one_below_the_bound() -> None:
    """Site 6 tells sites 1 to 3 that it contributes and the others that it does not. Of five true contributors one is missing,
    so those who believe it consent and the others do not: too few for a sum."""
    world = World(6)  # c = 1, t = 4
    world.data[5] = DataKind.NONE
    liar = world.sites[6]
    world.data[6] = DataKind.NONE
    requests = world.exchange(world.adverts())
    replies = world.answers(requests)
    table = read_table(replies[6], BOX_BYTES, "x")
    for peer in (1, 2, 3):
        channel: ShareChannel = liar._to(peer)
        plain = ShareChannel(channel.session, 6, peer, channel.adverts_hash)
        shares = world.sites[peer]._from(6).open(world.sites[peer]._agreed[6], table[peer])
        said = Statement(DataKind.TRAINING, 0).to_bytes()
        table[peer] = plain.seal(liar._agreed[peer], shares[:132] + said)
    lists = world.exchange(world.answers(world.exchange({**replies, 6: write_table(table)})))
    assert lists is not None
    consents = {6: identity(6).sign_raw(consent_statement(world.session.id, ids(set(world.keys))))}
    for site in (1, 2, 3, 4, 5):
        try:
            consents[site] = world.sites[site].answer(lists[site])
        except NotOpened:
            assert site in (4, 5)
    assert sorted(consents) == [1, 2, 3, 6]  # four believed that five contribute; true contributors are {1, 2, 3, 4}
    honest = len({1, 2, 3, 4})
    assert honest >= thresholds(6).minimum_cohort - thresholds(6).colluders


@given(
    n=st.integers(5, 12),
    seed=st.integers(0, 2**16),
    minimum=st.integers(0, 9),
)
def test_a_consent_is_given_exactly_when_the_rule_holds(n: int, seed: int, minimum: int) -> None:
    rng = np.random.default_rng(seed)
    world = World(n)
    world.sites = {site: world.site(site, cohort=min(minimum, n)) for site in world.keys}
    world.data = {site: DataKind(int(rng.integers(0, 8))) for site in world.keys}
    lists = until_consent(world)
    counts = [sum(kind in data for data in world.data.values()) for kind in DataKind.kinds()]
    needed = max(thresholds(n).minimum_cohort, min(minimum, n))
    enough = (needed, thresholds(n).colluders + 2, needed)
    allowed = any(counts) and all(count == 0 or count >= least for count, least in zip(counts, enough, strict=True))
    if allowed:
        assert len(world.sites[1].answer(lists[1])) == 64
    else:
        with pytest.raises(NotOpened):
            world.sites[1].answer(lists[1])
