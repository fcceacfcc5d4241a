"""The link with real TLS, coordinator and sites in one process; both versions of the protocol keep the same promises.

For version 1 this is also the contract with Flower's unpublished parts.
"""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, Context, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.fleet_pb2 import PushMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import add_header_to_object_body, get_object_id
from tests.processes import BACKSTOP_S, wait_until

from salus.client.config import SiteFolder
from salus.client.link import FleetLink
from salus.client.link_fleet import FleetCalls
from salus.common.certificates import new_node_key, public_pem
from salus.common.clock import SystemClock
from salus.common.errors import LinkError, WireError
from salus.common.objects import MAX_ARRAY_BYTES, Incomplete, assemble
from salus.common.packets import Reply, Request, pack, packet_of, reply_of
from salus.common.progress import Progress
from salus.common.versions import OLDEST_HEADER, PROTOCOL, PROTOCOL_HEADER
from salus.server import link_mail
from salus.server.config import ServerFolder
from salus.server.federation import GridFederation
from salus.server.link import Link, LinkGrid
from salus.server.listen import Listener, listen_tcp
from salus.simulations.benchmarks.link import echo
from salus.simulations.trial import Trial

CLOCK = SystemClock()
Found = TypeVar("Found")
REQUEST = Request(kind="hello")


class OldLink(FleetLink):
    """A site that speaks version 1 of the protocol."""

    def activate(self) -> int:
        self._fleet = self._fleet or FleetCalls(*self._how)
        self._connected = True
        return self._fleet.activate()


LINKS = {1: OldLink, 2: FleetLink}


@dataclass
class World:
    trial: Trial
    server: ServerFolder
    link: Link
    listener: Listener
    grid: LinkGrid
    protocol: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.trial.port}"

    def connect(self, number: int) -> FleetLink:
        site = SiteFolder.open(self.trial.sites[number - 1], CLOCK)
        return LINKS[self.protocol](self.url, site.tls(), site.node_key)

    def federation(self) -> GridFederation:
        return GridFederation(self.grid, self.link.directory)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("trial"), ["One", "Two", "Three"], policy="")


@pytest.fixture(params=[2, 1], ids=["new", "old"])
def world(trial: Trial, request: pytest.FixtureRequest) -> Iterator[World]:
    server = ServerFolder.open(trial.coordinator, CLOCK)
    link = Link(server.node_keys())
    listener = listen_tcp(link.app, "127.0.0.1", trial.port, server.tls())
    grid = link.begin_run()
    yield World(trial, server, link, listener, grid, request.param)
    grid.close()
    listener.close()


def serve(link: FleetLink, site: int, count: int) -> threading.Thread:
    """Answer `count` messages in a thread."""
    app = echo(site)

    def loop() -> None:
        answered = 0
        while answered < count:
            message = link.receive()
            if message is not None:
                link.send(app(message, Context(0, 1, {}, RecordDict(), {})))
                answered += 1

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


def ask(world: World, sites: list[int], blob: bytes, timeout_s: float = BACKSTOP_S) -> dict[int, bytes]:
    requests = dict.fromkeys(sites, (REQUEST, blob))
    return {s: b for s, reply, b in world.federation().exchange(requests, timeout_s) if isinstance(reply, Reply)}


def shifted(blob: bytes, site: int) -> bytes:
    return bytes((value + site) % 256 for value in blob)


@pytest.mark.parametrize("size", [0, 1, 1024, 12_000_000])
def test_messages_of_every_size_go_to_all_sites_and_back(world: World, size: int) -> None:
    with world.connect(1) as one, world.connect(2) as two:
        nodes = {one.activate(), two.activate()}
        assert set(world.link.directory().values()) == nodes
        threads = [serve(one, 1, 1), serve(two, 2, 1)]
        blob = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        assert ask(world, [1, 2], blob) == {1: shifted(blob, 1), 2: shifted(blob, 2)}
        for thread in threads:
            thread.join()
    assert world.link.directory() == {}


def test_a_long_poll_waits_for_its_message(world: World) -> None:
    with world.connect(1) as one:
        one.activate()
        got: list[Message | None] = []
        thread = threading.Thread(target=lambda: got.append(one.receive()), daemon=True)
        thread.start()
        thread.join(0.5)  # a poll that returns empty does so within this time; a correct one never fails by it
        assert not got
        node = world.link.directory()[1]
        list(world.grid.push_messages([Message(pack(REQUEST), node, "query.hello")]))
        thread.join()
        assert got
        assert got[0] is not None


def test_a_poll_that_waits_while_the_coordinator_stops_is_answered_and_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    one = world.connect(1)
    one.activate()
    found: list[str] = []

    def poll() -> None:
        try:
            found.append(str(one.receive()))
            one.receive()
        except LinkError as problem:
            found.append(str(problem))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    wait_until(lambda: world.link._mail._waiting, "a poll that waits")
    world.link.close()  # as the daemon does before it closes the port
    thread.join()
    world.listener.close()
    said = "The coordinator is stopping. The site connects again when it is started."
    assert found == ([said] if world.protocol == 2 else ["None", said])
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_site_that_took_a_message_and_died_gets_it_again_when_it_comes_back(world: World) -> None:
    first = world.connect(1)
    first.activate()
    node = world.link.directory()[1]
    waiting = list(world.grid.push_messages([Message(pack(REQUEST, b"work"), node, "query.hello")]))
    assert first.receive() is not None
    first._direct.close()
    if first._fleet is not None:
        first._fleet.close()  # It is killed here: no goodbye, and the coordinator still counts it as online.
    with world.connect(1) as second:
        assert second.activate() == node
        thread = serve(second, 1, 1)
        replies: list[Message] = []
        wait_until(lambda: bool(replies.extend(world.grid.pull_messages(waiting)) or replies), "the reply")
        thread.join()
        assert len(replies) == 1
        assert not replies[0].has_error(), replies[0]


def test_a_site_is_offline_after_a_silence_that_is_not_measured_by_the_time_of_day(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = world.connect(1)
    site.activate()
    assert set(world.link.directory()) == {1}
    site._direct.close()
    if site._fleet is not None:
        site._fleet.close()  # as above; Flower counts it as online until a time of day, which a clock set back puts off
    monkeypatch.setattr(link_mail, "PRESENT_S", 0.0)
    assert world.link.directory() == {}


def test_a_site_whose_reply_was_lost_gets_the_message_again_when_it_connects_again(world: World) -> None:
    with world.connect(1) as one:
        one.activate()
        node = world.link.directory()[1]
        waiting = list(world.grid.push_messages([Message(pack(REQUEST, b"work"), node, "query.hello")]))
        first = one.receive()
        assert first is not None
        one.activate()  # what it had in hand is gone
        again = one.receive()
        assert again is not None
        assert again.metadata.message_id == first.metadata.message_id
        one.send(echo(1)(again, Context(0, 1, {}, RecordDict(), {})))
        replies: list[Message] = []
        wait_until(lambda: bool(replies.extend(world.grid.pull_messages(waiting)) or replies), "the reply")
        assert not replies[0].has_error()


def test_packets_are_what_the_messages_of_flower_say(world: World) -> None:
    """A round takes replies as packets; Flower's own code takes the same replies as messages."""

    def replies(of: Callable[[list[str]], Iterable[Found]]) -> Found:
        asked = list(world.grid.push_messages([Message(pack(REQUEST, b"work"), node, "query.hello")]))
        thread = serve(one, 1, 1)
        found: list[Found] = []
        wait_until(lambda: bool(found.extend(of(asked)) or found), "the reply")
        thread.join()
        return found[0]

    with world.connect(1) as one:
        one.activate()
        node = world.link.directory()[1]
        message = replies(world.grid.pull_messages)
        name, packet = replies(lambda asked: world.grid.pull_packets(set(asked)))
    assert len(name) == len(message.metadata.reply_to_message_id)
    said = packet_of(message)
    assert isinstance(packet, tuple)
    assert isinstance(said, tuple)
    assert packet[1] == said[1]
    assert reply_of(packet[0]).model_dump(exclude={"nonce"}) == reply_of(said[0]).model_dump(exclude={"nonce"})


def test_an_answered_message_is_not_taken_twice_after_a_reconnection(world: World) -> None:
    with world.connect(1) as one:
        one.activate()
        thread = serve(one, 1, 1)
        assert ask(world, [1], b"once") == {1: shifted(b"once", 1)}
        thread.join()
        one.activate()
        got: list[Message | None] = []

        def poll() -> None:
            with contextlib.suppress(LinkError):  # the test's server ends before the long poll does
                got.append(one.receive())

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        thread.join(0.5)
        assert not got


def test_a_node_that_is_not_on_the_roster_is_refused(world: World) -> None:
    site = SiteFolder.open(world.trial.sites[0], CLOCK)
    with LINKS[world.protocol](world.url, site.tls(), new_node_key()) as stranger, pytest.raises(LinkError):
        stranger.activate()


def test_nobody_registers_itself(world: World) -> None:
    site = SiteFolder.open(world.trial.sites[0], CLOCK)
    calls = FleetCalls(world.url, site.tls(), site.node_key, CLOCK, 1000)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        calls._client.RegisterNode(RegisterNodeFleetRequest(public_key=calls._public))
    calls.close()
    assert caught.value.response.status_code >= 400


def test_a_site_cannot_speak_for_another(world: World) -> None:
    with world.connect(1) as one, world.connect(2) as two:
        one.activate()
        two.activate()
        node = world.link.directory()[2]
        asked = list(world.grid.push_messages([Message(pack(REQUEST, b"for two"), node, "query.hello")]))
        message = two.receive()
        assert message is not None
        reply = echo(2)(message, Context(0, 1, {}, RecordDict(), {}))
        if world.protocol == 1:
            with pytest.raises(LinkError, match="refuses"):
                one.send(reply)
        else:
            assert not one.send(reply)  # the coordinator says that there is no such request
        assert not list(world.grid.pull_messages(asked))
        assert two.send(reply)


def test_another_nodes_id_is_refused(world: World) -> None:
    with world.connect(1) as one, world.connect(2) as two:
        one.activate()
        two.activate()
        if one._fleet is None:
            return  # in version 2 no call names a node: the key that signed it decides
        one._fleet._node = Node(node_id=world.link.directory()[2])
        with pytest.raises(LinkError, match="refuses"):
            one.receive()
        one._fleet._node = Node(node_id=world.link.directory()[1])


def test_a_wrong_authority_no_certificate_and_plain_http_are_refused(world: World, tmp_path: Path) -> None:
    other = Trial(tmp_path / "other", ["One"], policy="")
    foreign = SiteFolder.open(other.sites[0], CLOCK)
    own = SiteFolder.open(world.trial.sites[0], CLOCK)
    with FleetLink(world.url, foreign.tls(), own.node_key) as link, pytest.raises(LinkError, match="authority"):
        link.activate()
    trusting = ssl.create_default_context(cafile=str(world.trial.sites[0] / "trust" / "authority.crt"))
    with FleetLink(world.url, trusting, own.node_key) as link, pytest.raises(LinkError):
        link.activate()
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"http://127.0.0.1:{world.trial.port}/v1/fleet/activate-node", content=b"x")


def test_only_fleet_routes_exist_and_large_bodies_are_refused(world: World) -> None:
    own = SiteFolder.open(world.trial.sites[0], CLOCK)
    with httpx.Client(base_url=world.url, verify=own.tls()) as client:
        for path in ("/", "/docs", "/openapi.json", "/v1/control/list-runs", "/v1/runtime/pull-messages", "/health"):
            assert client.post(path, content=b"").status_code == 404
        with contextlib.suppress(
            httpx.TransportError
        ):  # refused while it is still being sent, which may hide the answer
            assert client.post("/v1/fleet/activate-node", content=b"0" * (9 * 2**20)).status_code == 413
        assert client.post("/v1/fleet/activate-node", content=b"\xff\xff").status_code >= 400
        unsigned = PushMessagesRequest(node=Node(node_id=1)).SerializeToString()
        headers = {"content-type": "application/x-protobuf"}
        assert client.post("/v1/fleet/push-messages", content=unsigned, headers=headers).status_code >= 400


def test_nothing_is_left_in_the_store_after_a_run(world: World) -> None:
    with world.connect(1) as one:
        one.activate()
        thread = serve(one, 1, 3)
        for _ in range(3):
            ask(world, [1], b"y" * 100_000)
        thread.join()
        assert len(world.grid.fleet._store) == 0
        assert not any(world.link._mail._letters.values())


class Forged(Message):
    """A reply with a part that cannot be parsed, under correct hashes."""

    def deflate(self) -> bytes:
        return add_header_to_object_body(b"\xff\xff not protobuf", self)


Forged.__qualname__ = "Message"


def test_a_forged_reply_costs_its_own_site_only(world: World) -> None:
    with world.connect(1) as one, world.connect(2) as two:
        one.activate()
        two.activate()
        thread = serve(two, 2, 1)

        def misbehave() -> None:
            message = one.receive()
            assert message is not None
            if one._fleet is not None:
                one._fleet.send(Forged(pack(Reply(kind="ok", site=1), b"abc"), reply_to=message))
            else:
                one._direct.reply(message.metadata.message_id, b"\xff not JSON", b"abc")

        other = threading.Thread(target=misbehave, daemon=True)
        other.start()
        answers = list(world.federation().exchange(dict.fromkeys([1, 2], (REQUEST, b"abc")), BACKSTOP_S))
        thread.join()
        other.join()
    kinds = {site: type(reply).__name__ for site, reply, _ in answers}
    assert kinds == {1: "WireError", 2: "Reply"}


def test_an_array_that_grows_when_it_is_built_is_refused() -> None:
    chunk = ArrayChunk(memoryview(b"x" * 1000))
    head = Array("uint8", (1000,), "salus.raw/1", b"x" * 1000)
    body = b'{"dtype":"uint8","shape":[1],"stype":"salus.raw/1","arraychunk_ids":[' + b"0," * 9999 + b"0]}"
    bomb = add_header_to_object_body(body, head)
    parts = {get_object_id(bomb): bomb, chunk.object_id: chunk.deflate()}
    with pytest.raises(WireError, match="agreed size"):
        assemble(get_object_id(bomb), parts.get, 1_000_000)
    large = add_header_to_object_body(b'{"a":[' + b"[]," * MAX_ARRAY_BYTES + b"[]]}", head)
    with pytest.raises(WireError, match=f"description of at most {MAX_ARRAY_BYTES} bytes"):
        assemble(get_object_id(large), {**parts, get_object_id(large): large}.get, 10_000_000)
    with pytest.raises(Incomplete):
        assemble("0" * 64, parts.get, 1_000_000)
    with pytest.raises(WireError, match="names"):
        assemble("0" * 64, lambda name: bomb, 1_000_000)


def test_two_requests_never_share_their_content() -> None:
    assert Request(kind="hello") != Request(kind="hello")
    assert Reply(kind="ok", site=1) != Reply(kind="ok", site=1)


def test_a_site_has_a_budget_of_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.connect(1) as one:
        node = one.activate()
        world.grid.reply_budget_bytes = 10_000
        monkeypatch.setattr("salus.server.link_grid.BASE_BUDGET_BYTES", 10_000)
        list(world.grid.push_messages([Message(pack(REQUEST), node, "query.hello")]))
        message = one.receive()
        assert message is not None
        with pytest.raises(LinkError, match="413"):
            one.send(Message(pack(Reply(kind="ok", site=1), b"z" * 50_000), reply_to=message))


def test_reconnecting_never_makes_a_site_look_offline(world: World) -> None:
    with world.connect(1) as one:
        one.activate()
        stop = threading.Event()
        seen: list[int] = []

        def watch() -> None:
            while not stop.is_set():
                seen.append(len(world.link.directory()))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        for _ in range(20):
            one.activate()
        stop.set()
        thread.join()
        assert set(seen) == {1}


def test_a_run_that_flower_has_ended_is_opened_again(world: World) -> None:
    with world.connect(1) as one:
        one.activate()
        before = world.grid.run.run_id
        world.grid.fleet._state.finish_task(world.grid.fleet.task, "failed", "")
        thread = serve(one, 1, 1)
        assert ask(world, [1], b"still here") == {1: shifted(b"still here", 1)}
        thread.join()
        assert world.grid.run.run_id != before


def test_two_runs_are_open_at_once_and_keep_their_messages_apart(world: World) -> None:
    other = world.link.begin_run()
    second = World(world.trial, world.server, world.link, world.listener, other, world.protocol)
    try:
        with world.connect(1) as one, world.connect(2) as two:
            nodes = {1: one.activate(), 2: two.activate()}
            asked = list(world.grid.push_messages([Message(pack(REQUEST, b"first"), nodes[1], "query.hello")]))
            thread = serve(two, 2, 1)
            assert ask(second, [2], b"second") == {2: shifted(b"second", 2)}
            thread.join()
            thread = serve(one, 1, 1)
            replies: list[Message] = []
            wait_until(lambda: bool(replies.extend(world.grid.pull_messages(asked)) or replies), "the reply")
            thread.join()
            assert {reply.metadata.run_id for reply in replies} == {world.grid.run.run_id} != {other.run.run_id}
    finally:
        other.close()


def test_a_site_that_is_no_longer_a_member_is_cut_off_at_once_and_a_new_one_is_let_in(world: World) -> None:
    keys = world.server.node_keys()
    world.link.set_members({1: keys[1], 2: keys[2]})
    with world.connect(1) as one, world.connect(2) as two, world.connect(3) as three:
        one.activate()
        two.activate()
        with pytest.raises(LinkError):
            three.activate()
        failed: list[LinkError] = []

        def poll() -> None:
            try:
                one.receive()
            except LinkError as problem:
                failed.append(problem)

        asked = list(
            world.grid.push_messages([Message(pack(REQUEST), world.link.directory()[2], "query.hello")])
        )  # two does not answer
        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        wait_until(lambda: bool(world.link._mail._waiting), "the poll")
        world.link.set_members({3: keys[3]})
        thread.join()  # long before the poll's own end
        assert failed
        assert world.link.directory() == {}
        lost: list[Message] = []
        wait_until(lambda: bool(lost.extend(world.grid.pull_messages(asked)) or lost), "the error")
        assert lost[0].has_error()
        with pytest.raises(LinkError):
            two.activate()
        three.activate()
        assert list(world.link.directory()) == [3]
        world.link.set_members(keys)
        one.activate()
        assert sorted(world.link.directory()) == [1, 3]


@pytest.mark.parametrize(("stated", "too_old"), [("3", "the coordinator"), ("0", "this site")])
def test_a_site_of_another_protocol_version_is_refused_and_both_sides_say_so(
    world: World, stated: str, too_old: str
) -> None:
    with FleetLink(world.url, *identity_of(world)) as link:
        http = link._direct._client
        http.headers[PROTOCOL_HEADER] = http.headers[OLDEST_HEADER] = stated
        told: list[httpx.Response] = []
        http.event_hooks["response"].append(told.append)
        with pytest.raises(LinkError, match="status 426"):  # this test's site has no other version than the coordinator
            link.activate()
        assert told[0].headers[PROTOCOL_HEADER] == str(PROTOCOL)
        assert f"{too_old} is too old" in told[0].read().decode()
    assert world.link.directory() == {}


@pytest.mark.parametrize(("stated", "too_old"), [("3", "this site"), ("0", "the coordinator")])
def test_a_site_leaves_a_coordinator_of_another_protocol_version(
    world: World, monkeypatch: pytest.MonkeyPatch, stated: str, too_old: str
) -> None:
    monkeypatch.setattr("salus.server.link_direct._STATED", (b"salus-protocol", stated.encode()))
    with FleetLink(world.url, *identity_of(world)) as link, pytest.raises(LinkError, match=f"{too_old} is too old"):
        link.activate()


def identity_of(world: World) -> tuple[ssl.SSLContext, ec.EllipticCurvePrivateKey]:
    site = SiteFolder.open(world.trial.sites[0], CLOCK)
    return site.tls(), site.node_key


def test_what_a_site_does_is_seen_at_the_coordinator(world: World) -> None:
    with world.connect(1) as one:
        one.activate()
        one.heartbeat(Progress(request="ab", step="training", percent=40))
        if world.protocol == 1:
            assert world.link.progress() == {}  # version 1 has no words for it
            return
        seen = world.link.progress()[1]
        assert (seen.progress.step, seen.progress.percent) == ("training", 40)
        one.heartbeat()
        later = world.link.progress()[1]
        assert later.progress == Progress()
        assert later.at_s >= seen.at_s


def test_progress_names_the_message_that_the_coordinator_waits_for(world: World) -> None:
    """So a deadline follows progress on this request, see `server/federation.py`."""
    if world.protocol == 1:
        pytest.skip("version 1 has no words for progress")
    with world.connect(1) as one:
        one.activate()
        asked = Message(pack(REQUEST, b"abc"), world.link.directory()[1], "query.hello", ttl=60.0)
        (name,) = world.grid.push_messages([asked])
        delivery = None
        while delivery is None:
            delivery = one.take()
        one.heartbeat(Progress(request=delivery.meta.message, step="training", percent=1))
        assert world.link.progress()[1].progress.request == name == asked.metadata.message_id


def test_a_session_ends_with_the_membership_also_for_a_member_that_returns() -> None:
    key = public_pem(new_node_key())
    link = Link({1: key})
    member = link._members.at(link._nodes[key])
    assert member is not None
    name = link._sessions.open(member, bytes(32))
    link.set_members({})
    link.set_members({1: key})
    assert link._sessions.find(name) is None
