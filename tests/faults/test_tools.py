"""The tools of the other tests do what they say."""

from pathlib import Path

from tests.faults.networks import ip, network, remove_stale


def test_a_network_delays_cuts_and_mends_and_leaves_nothing(tmp_path: Path) -> None:
    with network(tmp_path, ["a", "b", "c"]) as net:
        assert net.reaches("a", "b")
        assert net.reaches("c", "a")
        net.cut("b")
        assert not net.reaches("a", "b", 0.3)
        assert net.reaches("c", "a")
        net.mend("b")
        assert net.reaches("a", "b")
        names = [net.namespace(host) for host in ("switch", *net.hosts)]
        assert all(Path("/run/netns", name).exists() for name in names)
    assert not any(Path("/run/netns", name).exists() for name in names)


def test_what_a_killed_run_left_is_removed_by_the_next() -> None:
    ip("netns", "add", "salus999999999-x", check=False)
    remove_stale()
    assert not Path("/run/netns/salus999999999-x").exists()
