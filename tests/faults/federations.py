"""Federations of real daemons in network namespaces, whose limits of time may be shorter."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.builders import write_npz
from tests.faults.clocks import Clocks
from tests.faults.networks import Network, enter, in_place_of
from tests.processes import Forked

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.simulations.trial import Daemon, Trial, empty

POLICY = "allow_unprotected = true\nallow_without_noise = true\nchecks_per_hour = 1000\n[budget]\nepsilon = 30.0\n"
COORDINATOR = "c"
# Limits of time in the daemons' processes, so that hours become seconds; the code that waits is the same.
LONG: Mapping[str, object] = {}
SHORT: Mapping[str, object] = {
    "salus.client.link_direct:CALL_TIMEOUT_S": 5.0,  # 30
    "salus.server.link_direct:DirectRoutes.__init__.__defaults__": (2.0,),  # LONG_POLL_S, 20
    "salus.server.link_mail:PRESENT_S": 6.0,  # 60
    "salus.client.daemon:HEARTBEAT_S": 2.0,  # 12
}


def hosts(sites: int) -> list[str]:
    """Return the names of the hosts of a federation."""
    return [COORDINATOR, *(f"s{number}" for number in range(1, sites + 1))]


def begin(
    namespace: str,
    limits: Mapping[str, object],
    names: Path | None = None,
    clock: Callable[[], None] | None = None,
) -> None:
    """Move a new process into a namespace, if one is named, and set limits, by name: ``salus.client.daemon:HEARTBEAT_S``.

    Args:
        names: takes the place of ``/etc/hosts``, for this process; no other name can be resolved then.
        clock: gives the process a clock.
    """
    if clock is not None:
        clock()
    if namespace:
        enter(namespace)
    if names is not None:
        nobody = names.with_suffix(".resolv")
        nobody.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        in_place_of({"/etc/hosts": names, "/etc/resolv.conf": nobody})
    for name, value in limits.items():
        module, _, path = name.partition(":")
        *parents, attribute = path.split(".")
        found: object = importlib.import_module(module)
        for parent in parents:
            found = getattr(found, parent)
        assert hasattr(found, attribute), name
        setattr(found, attribute, value)


def launcher(
    net: Network, limits: Mapping[str, object], names: Path | None = None, clocks: Clocks | None = None
) -> Callable[[Sequence[str], Path], Daemon]:
    """Return what starts each daemon on its own host."""

    def start(words: Sequence[str], log: Path) -> Daemon:
        member = Path(words[2]).name
        host = COORDINATOR if member == "coordinator" else f"s{member.removeprefix('site-')}"
        clock, server = (clocks.given(member), clocks.server) if clocks is not None else (None, None)
        return Forked(words, log, partial(begin, net.namespace(host), dict(limits), names, clock), server)

    return start


def federation(
    folder: Path,
    net: Network,
    *,
    datasets: Sequence[str] = ("toy",),
    images: int = 40,
    limits: Mapping[str, object] = LONG,
    host: str = "",
    emptied: bool = False,
    names: Path | None = None,
    clocks: Clocks | None = None,
) -> Trial:
    """Return a federation whose daemons are not started yet.

    Args:
        host: name of the coordinator; empty for its address.
        names: takes the place of ``/etc/hosts``.
        clocks: gives every member a clock that can be stepped.
        emptied: the folder was emptied before, and members' folders may be mounted in it.
    """
    if not emptied:
        empty(folder)
    members = [f"Site {number}" for number in range(1, len(net.hosts))]
    found = host or net.address(COORDINATOR)
    trial = Trial(folder, members, policy=POLICY, launcher=launcher(net, limits, names, clocks), host=found)
    for number, site in enumerate(trial.sites, start=1):
        data = write_npz(site / "toy.npz", seed=number, images=images)
        for name in datasets:
            open_catalogue(site).add(name, "medmnist", data, SourceOptions())
    return trial
