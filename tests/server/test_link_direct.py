"""Version 2 of the protocol, call by call: who is let in, what is read, and which bytes count."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import Message, Metadata, RecordDict
from starlette.types import Message as Sent

from salus.common.certificates import new_node_key, public_pem
from salus.common.clock import ManualClock
from salus.common.link_signature import (
    NODE,
    TOLERANCE_S,
    fingerprint,
    mac_request,
    public_bytes,
    session_key,
    sign_request,
)
from salus.common.versions import PROTOCOL, PROTOCOL_HEADER
from salus.server.link_auth import MAX_POLL_BYTES, Gate
from salus.server.link_direct import DIRECT, MAX_HELD, DirectRoutes
from salus.server.link_mail import SMALL_BYTES, Letter, Mailbox
from salus.server.link_members import Members

KEYS = {1: new_node_key(), 2: new_node_key()}
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NAME = "ab" * 16


class Unread(Exception):
    """The body of a refused request was asked for."""


class World:
    """The routes, without a network."""

    def __init__(self, folder: Path | None = None) -> None:
        self.members = Members(node_keys={site: public_pem(key) for site, key in KEYS.items()})
        self.mail = Mailbox(self.members, folder)
        self.routes = DirectRoutes(Gate(self.members, ManualClock(NOW)), self.mail, long_poll_s=0.0)
        self.done: list[Letter] = []

    def letter(self, node: int = 1, blob: bytes = b"model", budget: int = 10_000_000) -> Letter:
        metadata = Metadata(7, NAME, 1, node, "", "", 1.0, 60.0, "query.hello")
        whole: Message = Message(metadata=metadata, content=RecordDict())  # type: ignore[call-overload]
        letter = Letter(whole, b"header", blob, budget, self.done.append)
        self.mail.put(letter)
        return letter

    def send(
        self, call: str, headers: dict[str, str], body: bytes | list[bytes] | None, *, gone: bool = False
    ) -> tuple[int, bytes]:
        """Return status and body of the answer; a body of None must not be read, and `gone` ends the connection in it."""
        parts = [] if body is None else list(body) if isinstance(body, list) else [body]
        sent: list[Sent] = []

        async def receive() -> Sent:
            if body is None:
                raise Unread
            if not parts:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts) or gone}

        async def send(message: Sent) -> None:
            sent.append(message)

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": DIRECT + call, "query_string": b"", "headers": raw}
        asyncio.run(self.routes(scope, receive, send))
        return sent[0]["status"], b"".join(bytes(each.get("body", b"")) for each in sent[1:])

    def hello(self, site: int = 1) -> tuple[str, bytes]:
        """Begin a session as a site and return its name and key."""
        mine = X25519PrivateKey.generate()
        body = json.dumps({"key": public_bytes(mine).hex()}).encode()
        status, answer = self.send("hello", signed("hello", body, site), body)
        assert status == 200
        found = json.loads(answer)
        theirs = bytes.fromhex(found["key"])
        return found["session"], session_key(mine, theirs, site=public_bytes(mine), coordinator=theirs)

    def call(
        self, session: tuple[str, bytes], call: str, body: bytes = b"{}", *, read: bool = True
    ) -> tuple[int, bytes]:
        return self.send(call, maced(session, call, body), body if read else None)


def signed(call: str, body: bytes, site: int = 1) -> dict[str, str]:
    return {
        **sign_request(KEYS[site], "POST", DIRECT + call, body, NOW),
        NODE: fingerprint(KEYS[site].public_key()),
        "content-length": str(len(body)),
        PROTOCOL_HEADER: str(PROTOCOL),
    }


def maced(session: tuple[str, bytes], call: str, body: bytes, now: datetime = NOW) -> dict[str, str]:
    return {
        **mac_request(session[1], session[0], "POST", DIRECT + call, body, now),
        "content-length": str(len(body)),
        PROTOCOL_HEADER: str(PROTOCOL),
    }


def reply(blob: bytes, header: bytes = b"{}") -> bytes:
    return len(header).to_bytes(4, "big") + header + blob


def test_a_request_comes_whole_with_one_call_and_its_reply_goes_with_another(tmp_path: Path) -> None:
    world = World(tmp_path)
    letter, session = world.letter(), world.hello()
    status, whole = world.call(session, "poll")
    size = int.from_bytes(whole[:4], "big")
    assert status == 200
    assert json.loads(whole[4 : 4 + size])["message"] == NAME
    assert whole[4 + size :] == (6).to_bytes(4, "big") + b"header" + b"model"
    answer = reply(b"update")
    assert world.call(session, f"reply/{NAME}/0/{len(answer)}", answer)[0] == 200
    assert world.done == [letter]
    assert letter.reply is not None
    assert letter.reply.read() == (b"{}", b"update")


UNREAD = {
    "no session and no signature": lambda w, s: {**maced(s, "poll", b"{}"), "salus-session": "0" * 32},
    "another session's key": lambda w, s: maced((s[0], w.hello(2)[1]), "poll", b"{}"),
    "made for another call": lambda w, s: maced(s, "heartbeat", b"{}"),
    "too long ago": lambda w, s: maced(s, "poll", b"{}", NOW - timedelta(seconds=TOLERANCE_S + 1)),
    "in the future": lambda w, s: maced(s, "poll", b"{}", NOW + timedelta(seconds=TOLERANCE_S + 1)),
    "a code that is not hex": lambda w, s: {**maced(s, "poll", b"{}"), "salus-signature": "\u00e4" * 32},
    "a time without a zone": lambda w, s: {**maced(s, "poll", b"{}"), "salus-time": "2026-05-01T12:00:00"},
    "a stranger's signature under a member's name": lambda w, s: {
        **signed("poll", b"{}", 2),
        NODE: fingerprint(KEYS[1].public_key()),
    },
    "an unknown key": lambda w, s: {**signed("poll", b"{}"), NODE: "0" * 64},
}


@pytest.mark.parametrize("case", UNREAD)
def test_what_no_member_vouches_for_is_refused_before_its_body_is_read(case: str) -> None:
    world = World()
    assert world.send("poll", UNREAD[case](world, world.hello()), None)[0] == 401


def test_a_body_that_is_not_the_signed_one_is_refused() -> None:
    world = World()
    assert world.send("poll", maced(world.hello(), "poll", b"{}"), b"[]")[0] == 401


def test_the_first_call_of_somebody_else_begins_no_session() -> None:
    world = World()
    body = json.dumps({"key": "00" * 32}).encode()
    assert world.send("hello", signed("hello", body), body)[0] == 400  # a key that gives no secret
    body = b'{"key": "00"}'
    assert world.send("hello", signed("hello", body), body)[0] == 400
    assert world.send("hello", {**signed("hello", body), NODE: ""}, None)[0] == 401


def test_a_member_that_was_removed_has_no_session_and_the_others_keep_theirs() -> None:
    world = World()
    one, two = world.hello(1), world.hello(2)
    keys = {2: public_pem(KEYS[2])}
    assert world.members.replace(keys, {keys[2]: 2}) == {1}
    assert world.call(one, "poll", read=False)[0] == 401
    assert world.call(two, "poll")[0] == 204


def test_a_site_neither_sees_nor_answers_another_sites_request() -> None:
    world = World()
    letter, two = world.letter(node=1), world.hello(2)
    assert world.call(two, "poll")[0] == 204
    assert world.call(two, f"request/{NAME}/0")[0] == 410
    assert world.call(two, f"reply/{NAME}/0/9", reply(b"abc"), read=False)[0] == 410
    assert not world.done
    assert letter.reply is None


def test_a_request_is_offered_until_it_is_held_or_answered_and_a_reply_counts_once() -> None:
    world = World()
    letter, session = world.letter(), world.hello()
    assert world.call(session, "poll")[0] == 200
    assert world.call(session, "poll")[0] == 200  # it was lost on the way
    held = json.dumps({"held": [NAME]}).encode()
    assert world.call(session, "poll", held)[0] == 204
    answer = reply(b"one")
    for blob in (answer, reply(b"two")):
        assert world.call(session, f"reply/{NAME}/0/{len(blob)}", blob)[0] == 200
    assert world.done == [letter]
    assert letter.reply is not None
    assert letter.reply.read()[1] == b"one"
    assert world.call(session, "poll")[0] == 204


@pytest.mark.parametrize("size", [1000, SMALL_BYTES + 1000])
def test_a_reply_arrives_in_parts_and_only_what_is_signed_counts(tmp_path: Path, size: int) -> None:
    world = World(tmp_path)
    letter, session = world.letter(), world.hello()
    whole = reply(bytes(value % 251 for value in range(size)))
    total, cut = len(whole), len(whole) // 2
    assert world.call(session, f"reply/{NAME}/{cut}/{total}", whole[cut:], read=False)[0] == 409  # nothing is there yet
    first = f"reply/{NAME}/0/{total}"
    forged = bytes(cut)
    assert world.send(first, maced(session, first, whole[:cut]), forged)[0] == 401
    world.send(first, maced(session, first, whole[:cut]), [whole[: cut // 2]], gone=True)  # the connection ends
    assert letter.reply is not None
    assert letter.reply.received == 0
    assert json.loads(world.call(session, first, whole[:cut])[1]) == {"received": cut}
    assert not world.done
    last = f"reply/{NAME}/{cut}/{total}"
    assert world.send(last, maced(session, last, whole[cut:]), [whole[cut : cut + 7], whole[cut + 7 :]])[0] == 200
    assert world.done == [letter]
    assert letter.reply.read() == (b"{}", whole[6:])
    assert list(tmp_path.iterdir()) == []  # a large reply is in a file without a name
    world.mail.drop(letter)
    assert world.call(session, last, whole[cut:], read=False)[0] == 410


def test_who_has_answered_is_at_rest_before_its_next_poll() -> None:
    world = World()
    session, answer = world.hello(), reply(b"update")
    world.letter()
    world.call(session, "poll")
    world.call(session, f"reply/{NAME}/0/{len(answer)}", answer[:5])
    assert world.mail.progress()[1].progress.request == NAME, "it has sent a part"
    world.call(session, f"reply/{NAME}/5/{len(answer)}", answer[5:])
    assert world.mail.progress()[1].progress.request == ""


def test_a_reply_is_bounded_before_it_is_read() -> None:
    world = World()
    world.letter(budget=1000)
    session = world.hello()
    assert world.call(session, f"reply/{NAME}/0/1001", b"x" * 10, read=False)[0] == 413
    assert world.call(session, f"reply/{NAME}/995/1000", b"x" * 10, read=False)[0] == 413
    assert world.call(session, f"reply/{NAME}/0/100", b"", read=False)[0] == 413
    for strange in (f"reply/{NAME}/0/0", f"reply/{NAME}/-1/9", f"reply/{NAME}/00/9", "reply/../0/9", "polls", ""):
        assert world.call(session, strange, b"x", read=False)[0] == 404
    headers = {**maced(session, "poll", b"{}"), "content-length": "100000"}
    assert world.send("poll", headers, None)[0] == 413


def test_a_reply_that_is_not_one_is_noticed_when_it_is_read() -> None:
    world = World()
    letter, session = world.letter(), world.hello()
    assert world.call(session, f"reply/{NAME}/0/4", b"\xff\xff\xff\xff")[0] == 200
    assert letter.reply is not None
    with pytest.raises(ValueError, match="longer"):
        letter.reply.read()


def test_a_disk_that_is_full_refuses_a_large_reply_and_it_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    letter, session = world.letter(), world.hello()
    whole = reply(bytes(SMALL_BYTES + 1))
    path = f"reply/{NAME}/0/{len(whole)}"

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("salus.server.link_mail.os.pwrite", full)
        assert world.call(session, path, whole)[0] == 507
    assert world.call(session, path, whole)[0] == 200
    assert world.done == [letter]
    world.mail.drop(letter)


def test_a_request_goes_on_where_its_transfer_stopped() -> None:
    world = World()
    world.letter(blob=bytes(range(256)) * 3000)
    session = world.hello()
    whole = world.call(session, "poll")[1]
    for start in (1, 200, 300_000, len(whole)):
        assert world.call(session, f"request/{NAME}/{start}") == (200, whole[start:])
    assert world.call(session, f"request/{NAME}/{len(whole) + 1}")[0] == 404
    assert world.call(session, f"request/{'0' * 32}/0")[0] == 410


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"held": ["../x"]}',
        b'{"held": [' + b'"ab",' * 70 + b'"ab"]}',
        b'{"progress": {"step": "sleeping"}}',
        b'{"progress": {"percent": 101}}',
        b"\xff",
    ],
)
def test_a_poll_says_what_it_should_and_nothing_else(body: bytes) -> None:
    world = World()
    assert world.call(world.hello(), "poll", body)[0] == 400


def test_a_newer_poll_of_a_site_ends_the_older_one() -> None:
    """The older one may wait on a dead connection, and would take the next request into nowhere."""
    world = World()
    world.routes = DirectRoutes(world.routes._gate, world.mail, long_poll_s=60.0)

    async def both() -> tuple[Letter | None, Letter | None]:
        async def never() -> Sent:
            return await asyncio.Future()

        old = asyncio.ensure_future(world.routes._wait(1, (), never))
        await asyncio.sleep(0)
        new = asyncio.ensure_future(world.routes._wait(1, (), never))
        first = await old
        letter = world.letter()
        second = await new
        assert second is letter
        return first, second

    assert asyncio.run(both())[0] is None


def test_a_poll_that_holds_all_that_it_may_fits_and_a_larger_body_is_not_read() -> None:
    world = World()
    session = world.hello()
    most = {"held": ["f" * 64] * MAX_HELD, "progress": {"request": "f" * 64, "step": "evaluating", "percent": 100}}
    assert world.call(session, "poll", json.dumps(most).encode())[0] == 204
    assert world.call(session, "poll", b" " * (MAX_POLL_BYTES + 1), read=False)[0] == 413
