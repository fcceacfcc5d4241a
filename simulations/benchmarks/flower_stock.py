"""Round-trip times of stock Flower: a flower-superlink and flower-supernodes started as a normal user would.

The daemons of the installed ``flwr`` run on loopback over TLS (throw-away CA), with SuperNode authentication and the
default subprocess isolation and polling intervals; ``flwr run`` submits a tiny app. Its ServerApp times
``grid.send_and_receive`` of one message to every SuperNode: the same fresh random payload out to all, and a payload of
equal size, different per site, back. The very first exchange is a warm-up and not counted; medians are reported.
``cpu_s`` is user + system time of everything started here, from daemon start-up to the last reply: daemons, their
SuperExecs, the ServerApp, one ClientApp process per message, and the ``flwr`` commands. The peak RSS figures are those
of the superlink process and of the largest supernode process, without their children. Linux only (reads ``/proc``).
Run ``python simulations/benchmarks/flower_stock.py`` to print the figures as JSON.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import ipaddress
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from salus.simulations.benchmarks.flower_stock_app import CLIENT_APP, PYPROJECT, SERVER_APP

SMALL_BYTES = 1024
SCRIPTS = Path(sysconfig.get_path("scripts"))


@dataclasses.dataclass(frozen=True)
class StockFlower:
    """Medians in wall seconds, CPU and memory of one run; ``round_trip_large_s`` is None if it was not measured."""

    round_trip_1kb_s: float
    round_trip_large_s: float | None
    cpu_s: float
    superlink_peak_rss_mb: float
    supernode_peak_rss_mb: float
    flwr_version: str


def _write_key(path: Path, form: serialization.PrivateFormat) -> ec.EllipticCurvePublicKey:
    key = ec.generate_private_key(ec.SECP384R1())  # the curve of Flower's documentation
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return key.public_key()


def _write_certificates(folder: Path) -> None:
    """Write ``ca.pem`` and, signed by it for 127.0.0.1, ``server.pem`` with ``server.key``."""
    authority_key = ec.generate_private_key(ec.SECP384R1())
    server_key = _write_key(folder / "server.key", serialization.PrivateFormat.PKCS8)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    authority = x509.BasicConstraints(ca=True, path_length=0)
    names = {name: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("ca", "server")}
    now = datetime.datetime.now(datetime.UTC)
    for name, key, extension in (("ca", authority_key.public_key(), authority), ("server", server_key, loopback)):
        builder = x509.CertificateBuilder(
            issuer_name=names["ca"],
            subject_name=names[name],
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(minutes=5),
            not_valid_after=now + datetime.timedelta(days=1),
        ).add_extension(extension, critical=name == "ca")
        certificate = builder.sign(authority_key, hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:  # all stay bound until the last is known, so that none is used twice
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [int(opened.getsockname()[1]) for opened in sockets]


def _environment(home: Path) -> dict[str, str]:
    # A caller's FLWR_* settings would change the defaults, and its proxy would route the traffic away from loopback.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FLWR_") and not name.lower().endswith("_proxy")
    }
    return kept | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}",
    }  # the daemons start others by name


@dataclasses.dataclass
class _Daemons:
    """The started daemons, their log files, and a way to stop them together with all they started."""

    folder: Path
    deadline: float
    started: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)

    def start(self, label: str, program: str, *arguments: str) -> None:
        with (self.folder / f"{label}.log").open("wb") as log:  # separate home folders, as on separate machines
            self.started[label] = subprocess.Popen(
                [str(SCRIPTS / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_environment(self.folder / f"home-{label}"),
            )

    def pause(self, waiting_for: str) -> None:
        """Sleep a little; RuntimeError if a daemon ended or the time is over."""
        for label, process in self.started.items():
            if process.poll() is not None:
                output = " ".join((self.folder / f"{label}.log").read_text(errors="replace").split())
                raise RuntimeError(f"stock Flower: {label} exited with code {process.returncode}: {output[-300:]}")
        if time.monotonic() > self.deadline:
            raise RuntimeError(f"stock Flower: no {waiting_for} in time")
        time.sleep(0.1)

    def freeze(self) -> list[psutil.Process]:
        """Stop every process in the trees: a stopped parent can not start more, nor reap a child while we count."""
        frozen: set[psutil.Process] = set()
        while True:
            found: set[psutil.Process] = set()
            for daemon in self.started.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    root = psutil.Process(daemon.pid)
                    if daemon.poll() is None:  # otherwise the pid may belong to another process by now
                        found |= {root, *root.children(recursive=True)}
            if found <= frozen:
                return [process for process in frozen if process.is_running()]  # some ended before they stopped
            for process in found - frozen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            frozen |= found

    def kill(self) -> None:
        processes = self.freeze()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for daemon in self.started.values():
            daemon.wait(timeout=10)
        psutil.wait_procs(processes, timeout=5)


def _flwr(folder: Path, *arguments: str) -> None:
    try:
        done = subprocess.run(
            [str(SCRIPTS / "flwr"), *arguments],
            cwd=folder,
            env=_environment(folder / "home-cli"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"stock Flower: 'flwr {arguments[0]}' did not finish in 60 s") from error
    if done.returncode != 0:
        output = " ".join((done.stdout + done.stderr).split())
        raise RuntimeError(f"stock Flower: 'flwr {arguments[0]}' failed: {output[-300:]}")


def _start_federation(daemons: _Daemons, folder: Path, sites: int) -> None:
    """Start the superlink, register the node keys, start the supernodes."""
    port, *node_ports = _free_ports(1 + sites)
    ca, home = str(folder / "ca.pem"), folder / "home-cli"
    daemons.start(
        "superlink",
        "flower-superlink",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--enable-supernode-auth",
        "--ssl-ca-certfile",
        ca,
        "--ssl-certfile",
        str(folder / "server.pem"),
        "--ssl-keyfile",
        str(folder / "server.key"),
        "--disable-runtime-dependency-installation",
    )  # otherwise it runs uv, which may use the network
    while True:
        daemons.pause("connection to the superlink")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink.bench]\naddress = "127.0.0.1:{port}"\nroot-certificates = {json.dumps(ca)}\n'
    )
    for site, node_port in enumerate(node_ports):
        key, public = folder / f"node-{site}.key", folder / f"node-{site}.pub"
        public_key = _write_key(key, serialization.PrivateFormat.OpenSSH)
        public.write_bytes(public_key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
        _flwr(folder, "supernode", "register", str(public), "bench")
        daemons.start(
            f"supernode-{site}",
            "flower-supernode",
            "--superlink",
            f"127.0.0.1:{port}",
            "--root-certificates",
            ca,
            "--host",
            "127.0.0.1",
            "--port",
            str(node_port),
            "--auth-supernode-private-key",
            str(key),
            "--node-config",
            f"partition-id={site}",
        )


def _run_app(daemons: _Daemons, folder: Path, settings: dict[str, int]) -> dict[str, list[float]]:
    """Submit the app and wait for the file that its ServerApp writes."""
    app, result_path = folder / "roundtrip", folder / "result.json"
    app.mkdir()
    # The ServerApp gives up slightly earlier than this process, so that its more specific error is raised.
    deadline = time.time() + daemons.deadline - time.monotonic() - 5.0
    config = settings | {"sites": len(daemons.started) - 1, "deadline": deadline, "result-path": str(result_path)}
    (app / "pyproject.toml").write_text(PYPROJECT + "".join(f"{k} = {json.dumps(v)}\n" for k, v in config.items()))
    (app / "server_app.py").write_text(SERVER_APP)
    (app / "client_app.py").write_text(CLIENT_APP)
    _flwr(folder, "run", str(app), "bench")
    while not result_path.exists():
        daemons.pause("result of the ServerApp")
    result: dict[str, list[float]] = json.loads(result_path.read_text())
    if "error" in result:
        raise RuntimeError(f"stock Flower: the ServerApp failed: {result['error']}")
    return result


def _peak_rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def measure_stock_flower(
    *,
    sites: int = 3,
    small_repetitions: int = 5,
    large_bytes: int = 44_000_000,
    large_repetitions: int = 1,
    timeout_s: float = 300.0,
) -> StockFlower:
    """Start stock Flower, time the exchanges, stop everything. RuntimeError if a part does not start or answer."""
    settings = {
        "small-bytes": SMALL_BYTES,
        "small-repetitions": small_repetitions,
        "large-bytes": large_bytes,
        "large-repetitions": large_repetitions if large_bytes else 0,
    }
    # Fields 2 and 3 of CPU times belong to children that ended and were waited for: here, the "flwr" commands.
    this, earlier = psutil.Process(), sum(psutil.Process().cpu_times()[2:4])
    with tempfile.TemporaryDirectory(prefix="flower-stock-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        daemons = _Daemons(folder, time.monotonic() + timeout_s)
        try:
            _write_certificates(folder)
            _start_federation(daemons, folder, sites)
            seconds = _run_app(daemons, folder, settings)
            cpu_s = sum(sum(process.cpu_times()[:4]) for process in daemons.freeze())
            cpu_s += sum(this.cpu_times()[2:4]) - earlier
            peaks = {label: _peak_rss_mb(process.pid) for label, process in daemons.started.items()}
        finally:
            daemons.kill()
    return StockFlower(
        round_trip_1kb_s=statistics.median(seconds["small"]),
        round_trip_large_s=statistics.median(seconds["large"]) if seconds["large"] else None,
        cpu_s=cpu_s,
        superlink_peak_rss_mb=peaks.pop("superlink"),
        supernode_peak_rss_mb=max(peaks.values()),
        flwr_version=importlib.metadata.version("flwr"),
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the daemons are also stopped in that case
    print(json.dumps(dataclasses.asdict(measure_stock_flower()), indent=2))
