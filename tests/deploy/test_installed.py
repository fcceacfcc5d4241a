"""A bundle is installed without internet, and images are built from it and run as in production. Slow: it builds everything.

Set SALUS_BUNDLE to a bundle that is there already, and SALUS_IMAGES to a folder for the storage of images, to keep them.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.builders import job_text
from tests.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MOST_BYTES = {"salus-site": 1.5e9, "salus-coordinator": 0.8e9}
STRICT = (
    "--read-only",
    "--cap-drop",
    "all",
    "--security-opt",
    "no-new-privileges",
    "--tmpfs",
    "/tmp:size=256m,mode=1777",
)
LIMITS = (
    "--ulimit",
    "nofile=1024:1024",
    "--ulimit",
    "nproc=1000:1000",
)  # podman's own are above those of a small machine
LOOK = "import importlib.util as u; print([u.find_spec(name) is not None for name in ('torch', 'salus', 'pip')])"
pytestmark = pytest.mark.slow


def run(*words: object, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run a program and fail with what it said if it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "SALUS_BUNDLE" in os.environ:
        return Path(os.environ["SALUS_BUNDLE"])
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    run(sys.executable, DEPLOY / "bundle.py", folder)
    return folder


@pytest.mark.parametrize("part", ["", "coordinator"])
def test_a_bundle_is_installed_without_internet(bundle: Path, tmp_path: Path, part: str) -> None:
    cut_off = ("unshare", "--net", "--map-root-user")
    run(*cut_off, "sh", bundle / "install.sh", tmp_path / "salus", *([part] if part else []))
    python = tmp_path / "salus" / "bin" / "python"
    found = run(
        python,
        "-c",
        LOOK,
    )
    assert found.stdout.strip() == str([not part, True, False])
    job, outline = tmp_path / "job.toml", tmp_path / "job.outline"
    job.write_text(job_text(model="cnn", protection="masking"))
    words = (tmp_path / "salus" / "bin" / "salus", "job", "outline", job, "--output", outline)
    if not part:
        run(*words)
        return
    refused = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert refused.returncode == 11
    assert "no torch" in refused.stderr
    run(
        tmp_path / "salus" / "bin" / "salus",
        "server",
        "init",
        tmp_path / "c",
        "--name",
        "C",
        "--url",
        "https://127.0.0.1:8443",
    )


def test_an_upgrade_is_another_link_and_going_back_is_the_former_one(bundle: Path, tmp_path: Path) -> None:
    current = tmp_path / "current"
    for version in ("old", "new"):
        run("sh", bundle / "install.sh", tmp_path / version, "coordinator")
    folder = tmp_path / "c"
    for version in ("old", "new", "old"):
        run("ln", "-sfn", tmp_path / version, current)
        if not folder.exists():
            run(current / "bin" / "salus", "server", "init", folder, "--name", "C", "--url", "https://127.0.0.1:8443")
        prefix = run(current / "bin" / "python", "-c", "import salus; print(salus.__file__)").stdout
        assert prefix.startswith((str(tmp_path / version), str(current)))
        run(current / "bin" / "salus", "server", "--help")
    again = subprocess.run(["sh", bundle / "install.sh", tmp_path / "old"], capture_output=True, text=True)
    assert again.returncode == 2
    assert "upgrade beside it" in again.stderr


def test_a_changed_byte_stops_the_installation(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy, copy_function=os.link)
    wheel = next((copy / "wheels").glob("salus-*.whl"))
    data = wheel.read_bytes()
    wheel.unlink()
    wheel.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused = subprocess.run(["sh", copy / "install.sh", tmp_path / "salus"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "the bundle is damaged" in refused.stderr
    assert not (tmp_path / "salus").exists()


class Engine:
    """buildah and podman over a storage of their own."""

    def __init__(self, folder: Path) -> None:
        storage = ("--root", str(folder / "store"), "--runroot", str(folder / "run"))
        self.buildah = ("buildah", *storage)
        self.podman = (
            "podman",
            *storage,
            "--runtime",
            "runc",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
        )
        self.running: list[str] = []

    def build(self, bundle: Path, name: str, part: str) -> None:
        if subprocess.run([*self.buildah, "inspect", name], capture_output=True).returncode == 0:
            return
        run(
            *self.buildah, "build", "--isolation", "chroot", "--pull=never", "--build-arg", "BASE=localhost/python-base",
            "--build-arg", f"PART={part}", "-f", DEPLOY / "Containerfile", "-t", name, bundle,
        )  # fmt: skip

    def start(self, name: str, image: str, data: Path, *words: object) -> None:
        """Start a container in the background."""
        mounts = ("--volume", f"{data}:/data", "--network", "host", *LIMITS)
        run(*self.podman, "run", "--detach", "--name", name, *STRICT, *mounts, image, *words)
        self.running.append(name)

    def once(self, image: str, data: Path, *words: object, entry: str = "salus", env: tuple[str, ...] = ()) -> str:
        """Run a command in a container of its own and return its output."""
        more = [word for one in env for word in ("--env", one)]
        more += ["--network", "host", *LIMITS]
        mounts = ("--volume", f"{data}:/data", "--volume", f"{DEPLOY / 'trial'}:/trial:ro")
        return run(*self.podman, "run", "--rm", "--entrypoint", entry, *more, *STRICT, *mounts, image, *words).stdout

    def close(self) -> None:
        for name in self.running:
            subprocess.run([*self.podman, "rm", "--force", "--time", "10", name], capture_output=True)


@pytest.fixture(scope="module")
def engine(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    for program in ("buildah", "podman", "runc", "debootstrap"):
        if shutil.which(program) is None or os.geteuid() != 0:
            pytest.skip(f"needs root and {program}: apt-get install buildah podman runc debootstrap")
    kept = os.environ.get("SALUS_IMAGES")
    engine = Engine(Path(kept) if kept else tmp_path_factory.mktemp("images"))
    if subprocess.run([*engine.buildah, "inspect", "localhost/python-base"], capture_output=True).returncode:
        run("sh", DEPLOY / "base.sh", "localhost/python-base", env={**os.environ, "BUILDAH": " ".join(engine.buildah)})
    engine.build(bundle, "localhost/salus-site", "")
    engine.build(bundle, "localhost/salus-coordinator", "coordinator")
    yield engine
    engine.close()


def test_images_are_small_and_hold_no_compiler_and_a_bill_of_materials(engine: Engine, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for image in json.loads(run(*engine.buildah, "images", "--json").stdout):
        name = image["names"][0].split("/")[-1].split(":")[0]
        if name in MOST_BYTES:
            size = json.loads(run(*engine.podman, "image", "inspect", image["id"]).stdout)[0]["Size"]
            assert size <= MOST_BYTES[name], (name, size)
    for name in MOST_BYTES:
        image = f"localhost/{name}"
        look = "for n in gcc cc ld pip nvcc; do command -v $n; done; cat /opt/salus/share/sbom.cdx.json"
        found = engine.once(image, tmp_path, "-c", look, entry="sh")
        assert found.startswith("{"), found[:200]
        names = {one["name"] for one in json.loads(found)["components"]}
        assert {"numpy", "libc6"} <= names
        assert ("torch" in names) == (name == "salus-site")


def test_containers_run_a_masked_job_on_a_read_only_root(engine: Engine, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.chown(tmp_path, 10001, 10001)
    site, coordinator = "localhost/salus-site", "localhost/salus-coordinator"
    engine.once(
        site, tmp_path, "/trial/init.sh", "/data", entry="sh", env=(f"URL=https://127.0.0.1:{port}", "LISTEN=127.0.0.1")
    )
    for number in range(1, 6):
        policy = tmp_path / f"site-{number}" / "policy.toml"
        policy.write_text(policy.read_text().replace("allow_without_noise = false", "allow_without_noise = true"))
    engine.start(f"c-{port}", coordinator, tmp_path, "server", "start", "/data/coordinator")
    for number in range(1, 6):
        engine.start(f"s{number}-{port}", site, tmp_path, "client", "start", f"/data/site-{number}")

    def status() -> bool:
        try:
            shown = engine.once(coordinator, tmp_path, "server", "status", "/data/coordinator", "--json")
            return shown.count('"online": true') == 5
        except AssertionError:
            return False

    wait_until(status, "five sites online")
    text = (ROOT / "simulations" / "jobs" / "phantom-lesion.toml").read_text()
    text = re.sub(r"(?ms)^\[privacy\].*?(?=^\[|\Z)", '[privacy]\nnoise = "none"\n', text)
    text = re.sub(r"(?m)^dataset = .*$", 'dataset = "phantom"', re.sub(r"(?m)^rounds = .*$", "rounds = 1", text))
    (tmp_path / "job.toml").write_text(text)
    engine.once(site, tmp_path, "job", "outline", "/data/job.toml", "--output", "/data/job.outline")
    words = ("/data/coordinator", "/data/job.toml", "--outline", "/data/job.outline")
    sent = engine.once(coordinator, tmp_path, "job", "submit", *words)
    job = re.findall(r"Submitted (\S+)\.", sent)[0]

    def ended() -> bool:
        shown = json.loads(engine.once(coordinator, tmp_path, "job", "show", "/data/coordinator", job, "--json"))
        assert shown["status"] in ("waiting", "running", "finished"), shown["reason"]
        return bool(shown["status"] == "finished")

    wait_until(ended, "the end of the job")
