"""What deploy/ has: commands that exist, services that can do little, manifests that Kubernetes knows, bundles with hashes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from packaging.requirements import Requirement

from salus.cli import app

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
OVERLAYS = ("coordinator", "coordinator-postgres", "site")
KUBERNETES = "1.29"
MOST_EXPOSED = 3.0

sys.path.insert(0, str(DEPLOY))
import bundle  # noqa: E402
import finish  # noqa: E402


def used() -> Iterator[tuple[str, list[str]]]:
    """Yield every `salus` command in deploy/."""
    for name, service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].items():
        if service["command"]:
            yield f"compose {name}", service["command"]
    for service, line in in_comments():
        yield f"comment {service}", shlex.split(line)
    for path in UNITS:
        line = re.findall(r"^ExecStart=\S+/salus (.*)$", path.read_text(), re.M)[0]
        yield path.name, shlex.split(line)
    for line in re.findall(r"^ *salus (.*)$", (DEPLOY / "trial" / "init.sh").read_text(), re.M):
        yield f"init {line[:24]}", shlex.split(re.sub(r"\$\{\w+:-(\S+)\}|\$\(\(.*?\)\)|\$n", r"\1", line))
    for overlay in OVERLAYS:
        for found in manifests(overlay):
            for container in containers(found):
                if "args" in container:
                    yield f"{overlay} {container['name']}", container["args"]


def in_comments() -> list[tuple[str, str]]:
    """Return service and command of every `salus` that the comments of the trial run in a container."""
    return re.findall(r"^# .*exec (\S+) salus (.*)$", (DEPLOY / "compose.yaml").read_text(), re.M)


def manifests(overlay: str) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        return []
    text = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / "overlays" / overlay)], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    return [found for found in yaml.safe_load_all(text) if found]


def pod(found: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest's pod; empty if it makes none."""
    spec = found if found["kind"] == "Pod" else found.get("spec", {}).get("template", {})
    result: dict[str, Any] = spec.get("spec", {})
    return result


def containers(found: dict[str, Any]) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = pod(found).get("containers", [])
    return result


needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl: apt-get install kubectl")


@pytest.mark.parametrize(("where", "words"), list(used()))
def test_every_command_in_deploy_parses(where: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context("salus", words)


def test_the_trial_has_five_sites_that_can_do_little() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert sorted(services) == ["coordinator", "init", *(f"site-{n}" for n in range(1, 6))]
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == "10001:10001"
        assert "ports" not in service
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve().exists()


def test_the_comments_of_the_trial_make_an_outline_where_torch_is_and_submit_it_where_it_is_not() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    images = {line.split(" /")[0]: services[service]["image"] for service, line in in_comments()}
    assert images == {
        "server status": "salus-coordinator",
        "job outline": "salus-site",
        "job submit": "salus-coordinator",
    }
    commands = {line.split(" /")[0]: line.split() for _, line in in_comments()}
    assert commands["job outline"][-1] == commands["job submit"][-1], "what one writes is what the other sends"
    for _, line in in_comments():
        assert line in (ROOT / "docs" / "deploy.md").read_text() or line.startswith("server status")


def test_the_image_takes_nothing_from_the_network_and_runs_as_nobody_special() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert 'ENTRYPOINT ["salus"]' in text
    assert "USER 10001:10001" in text
    assert not re.search(r"pip install|curl|wget|apt-get", text)
    assert re.findall(r"^FROM (\S+)", text, re.M) == ["${BASE}", "${BASE}"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_service_gets_enough_open_files_and_leaves_no_core(path: Path) -> None:
    text = path.read_text()
    assert int(re.findall(r"^LimitNOFILE=(\d+)$", text, re.M)[0]) >= 65_536
    assert re.search(r"^LimitCORE=0$", text, re.M)
    assert re.search(r"^SuccessExitStatus=143$", text, re.M)


def test_memory_becomes_code_only_where_torch_computes() -> None:
    denied = {path.stem: "MemoryDenyWriteExecute=true" in path.read_text().splitlines() for path in UNITS}
    assert not any(denied.values())  # each of them may have torch, whose convolutions fail then


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
def test_a_service_is_hardly_exposed(path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)], capture_output=True, text=True
    )
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert score is not None, done.stderr
    assert float(score[1]) <= MOST_EXPOSED
    verified = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    complaints = [
        line for line in verified.stderr.splitlines() if path.name in line and "is not executable" not in line
    ]
    assert complaints == []


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_manifests_fit_the_schemas_and_the_restricted_standard(overlay: str) -> None:
    found = manifests(overlay)
    for one in found:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    kinds = [one["kind"] for one in found]
    assert {"Namespace", "StatefulSet", "NetworkPolicy", "PersistentVolumeClaim"} <= set(kinds)
    assert "Secret" not in kinds
    namespace = next(one for one in found if one["kind"] == "Namespace")["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert all(one["metadata"].get("namespace") == namespace["name"] for one in found if one["kind"] != "Namespace")
    for one in found:
        if one["kind"] == "StatefulSet":
            check_restricted(one)


@pytest.mark.parametrize("path", sorted((DEPLOY / "kubernetes" / "setup").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_pods_for_setting_up_fit_too(path: Path) -> None:
    found = yaml.safe_load(path.read_text())
    kubernetes_validate.validate(found, KUBERNETES, strict=True)
    check_restricted(found)


def check_restricted(one: dict[str, Any]) -> None:
    """Check a pod as the Pod Security Standard "restricted" does, and that its root file system is read-only."""
    spec = pod(one)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not any(key in spec for key in ("hostNetwork", "hostPID", "hostIPC"))
    allowed = {"name", "emptyDir", "persistentVolumeClaim", "secret", "configMap"}
    assert all(set(volume) <= allowed for volume in spec["volumes"])
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


@needs_kubectl
def test_a_site_is_reached_by_nobody_and_reaches_only_names_and_its_coordinator() -> None:
    found = manifests("site")
    assert "Service" not in [one["kind"] for one in found]
    (policy,) = [one["spec"] for one in found if one["kind"] == "NetworkPolicy"]
    assert policy["podSelector"] == {}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy.get("ingress", []) == []
    names, coordinator = policy["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert coordinator["ports"] == [{"port": 8443, "protocol": "TCP"}]
    assert coordinator["to"][0]["ipBlock"]["cidr"].endswith("/32")


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_the_health_service(overlay: str) -> None:
    (main,) = [
        container
        for one in manifests(overlay)
        for container in containers(one)
        if container["name"] in ("coordinator", "site")
    ]
    assert main["readinessProbe"]["grpc"]["port"] in {port["containerPort"] for port in main["ports"]}


def wheel(folder: Path, name: str, *needs: str, licence: str = "MIT") -> None:
    """Write a wheel of a distribution without code."""
    stem = name.replace("-", "_")
    with zipfile.ZipFile(folder / f"{stem}-1.0-py3-none-any.whl", "w") as archive:
        lines = [f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: {licence}"]
        archive.writestr(
            f"{stem}-1.0.dist-info/METADATA", "\n".join(lines + [f"Requires-Dist: {need}" for need in needs]) + "\n\n"
        )


def test_a_bundle_lists_what_is_needed_with_hashes(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    extras = ('extra-thing; extra == "dicom-out"', 'psycopg; extra == "postgres"', 'old; python_version < "3"')
    wheel(wheels, "salus", "torch", "Num_Py>=1", *extras)
    wheel(wheels, "torch", "sym-py")
    for name in ("num-py", "sym-py", "extra-thing", "psycopg", "pip"):
        wheel(wheels, name)
    bundle.write(tmp_path, "dicom-out")
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in lines] == ["extra-thing", "num-py", "salus", "sym-py", "torch"]
    assert all(re.fullmatch(r"[a-z-]+==1\.0 --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    bare = (tmp_path / "requirements-coordinator.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in bare] == ["num-py", "psycopg", "salus"]
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {one["name"] for one in bill["components"]} >= {"torch", "pip", "psycopg"}
    for one in bill["components"]:
        (path,) = wheels.glob(f"{one['name'].replace('-', '_')}-*")
        assert one["hashes"] == [{"alg": "SHA-256", "content": bundle.sha256_of(path)}]
    check = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path).returncode == 0
    (tmp_path / "requirements.txt").write_text("torch==1.0\n")
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode != 0


def test_what_a_coordinator_lacks_is_what_the_tests_take_away() -> None:
    text = (ROOT / "tests" / "without_torch" / "sitecustomize.py").read_text()
    names = set(re.findall(r'"([a-z_]+)"', text.split("ABSENT = ")[1].split(")")[0]))
    modules = {"python-gdcm": "gdcm"}
    assert {modules.get(name, name) for name in bundle.NOT_AT_A_COORDINATOR} <= names
    for name in bundle.NOT_AT_A_COORDINATOR:
        assert Requirement(name).name == name


def test_a_command_that_needs_torch_says_so_where_there_is_none(tmp_path: Path) -> None:
    job = ROOT / "simulations" / "jobs" / "pneumonia.toml"
    done = subprocess.run(
        [sys.executable, "-m", "salus.cli", "job", "outline", job, "--output", tmp_path / "outline"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "without_torch"), "COLUMNS": "200"},
    )
    assert done.returncode == 11
    assert "has no torch" in done.stderr


def test_packages_of_the_base_are_in_the_bill_of_materials() -> None:
    status = (
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\nDescription: x\n more: y\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    assert [one["purl"] for one in finish.debian(status)] == ["pkg:deb/debian/libc6@2.36-9?arch=amd64"]


def test_an_image_loses_tests_and_headers_and_nothing_else(tmp_path: Path) -> None:
    kept = (
        "torch/lib/libtorch.so",
        "torch/bin/torch_shm_manager",
        "torch/testing/x.py",
        "numpy/core/x.py",
        "salus/tests.py",
    )
    gone = ("torch/include/a.h", "torch/test/t", "torch/bin/test_api", "scipy/stats/tests/t.py", "numpy/lib/x.a")
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert finish.shrink(tmp_path) == len(gone)
    assert all((tmp_path / name).exists() for name in kept)
    assert not any((tmp_path / name).exists() for name in gone)


@pytest.mark.parametrize("added", ["venv.py", "wheels/pip-0-py3-none-any.whl", "a link"])
def test_a_bundle_with_a_file_that_nothing_vouches_for_is_not_installed(tmp_path: Path, added: str) -> None:
    """The file would be imported in place of Python's own module where somebody installs from within the bundle."""
    folder = tmp_path / "bundle"
    (folder / "wheels").mkdir(parents=True)
    shutil.copy(DEPLOY / "install.sh", folder)
    bundle.write_sums(folder)
    if added == "a link":
        (folder / added).symlink_to("/etc")
    else:
        (folder / added).write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    done = subprocess.run(["sh", "install.sh", tmp_path / "salus"], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 1
    assert "does not list" in done.stderr
    assert not (tmp_path / "salus").exists()
    (folder / added).unlink()
    (tmp_path / "venv.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    whole = subprocess.run(
        ["sh", folder / "install.sh", tmp_path / "salus"], capture_output=True, text=True, cwd=tmp_path
    )
    assert "does not list" not in whole.stderr
    assert (tmp_path / "salus" / "bin" / "python").exists()
    assert not (tmp_path / "imported").exists()
