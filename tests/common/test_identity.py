import stat
from pathlib import Path

import pytest

from salus.common.errors import IdentityError
from salus.common.identity import Identity, fingerprint, verify


def test_key_file_is_private_and_round_trips(tmp_path: Path) -> None:
    identity = Identity.generate()
    path = tmp_path / "key.pem"
    identity.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load(path).public_key == identity.public_key


def test_key_file_is_never_overwritten(tmp_path: Path) -> None:
    Identity.generate().save(tmp_path / "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(IdentityError, match="never overwritten"):
        Identity.generate().save(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_bytes() == before


def test_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    Identity.generate().save(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o640)
    with pytest.raises(IdentityError, match="0600"):
        Identity.load(tmp_path / "key.pem")


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_damaged_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="Cannot read"):
        Identity.load(path)


def test_signature_binds_context_and_parts() -> None:
    identity = Identity.generate()
    signature = identity.sign("job", b"a", b"bc")
    verify(identity.public_key, signature, "job", b"a", b"bc")
    for context, parts in (("roster", (b"a", b"bc")), ("job", (b"ab", b"c")), ("job", (b"a", b"bd"))):
        with pytest.raises(IdentityError):
            verify(identity.public_key, signature, context, *parts)
    with pytest.raises(IdentityError):
        verify(Identity.generate().public_key, signature, "job", b"a", b"bc")


def test_printing_shows_no_secret() -> None:
    identity = Identity.from_seed(b"\x07" * 32)
    assert repr(identity) == f"Identity({fingerprint(identity.public_key)})"
    assert (b"\x07" * 32).hex() not in repr(identity)
