"""Single changes of a package, each named: bytes, fields, order, swapped files, an older roster, tricks of zip files."""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from tests.cli import salus
from tests.packages import (
    Content,
    changed_json,
    consortium_key,
    content,
    export,
    kit,
    readable_again,
    signed_again,
    write_folder,
    write_zip,
)

from salus.common.canonical import canonical_json
from salus.common.errors import PackageError, ProtectionError, SalusError
from salus.common.identity import Identity, Signed
from salus.common.package.checking import checked_package
from salus.common.roster import CONTEXT as ROSTER_CONTEXT
from salus.privacy.records.package import OTHER_WORDS, evidence_of

Change = Callable[[Content], object]


def flip(name: str, place: int) -> Change:
    def change(files: Content) -> None:
        data = bytearray(files[name])
        data[place] ^= 1
        files[name] = bytes(data)

    return change


def field(name: str, *keys: object, value: object) -> Change:
    def edit(found: object) -> None:
        *inner, last = keys
        for key in inner:
            found = found[key]  # type: ignore[index]
        found[last] = value  # type: ignore[index]

    def change(files: Content) -> None:
        files[name] = changed_json(files[name], edit)

    return change


def manifest(edit: Callable[[dict], object]) -> Change:  # type: ignore[type-arg]
    """Change the document that the manifest's signature is about."""

    def outer(signed: dict[str, str]) -> None:
        signed["document"] = changed_json(signed["document"].encode(), edit).decode()

    def change(files: Content) -> None:
        files["manifest.json"] = changed_json(files["manifest.json"], outer)

    return change


def swap(one: str, other: str) -> Change:
    def change(files: Content) -> None:
        files[one], files[other] = files[other], files[one]

    return change


def signed_by_another(name: str) -> Change:
    def change(files: Content) -> None:
        found = json.loads(files[name])
        files[name] = Signed.seal(Identity.generate(), found["context"], found["document"].encode()).to_bytes()

    return change


def drop_line(number: int) -> Change:
    def change(files: Content) -> None:
        lines = files["transcript.jsonl"].splitlines(keepends=True)
        del lines[number]
        files["transcript.jsonl"] = b"".join(lines)

    return change


def swap_lines(files: Content) -> None:
    lines = files["transcript.jsonl"].splitlines(keepends=True)
    lines[3], lines[4] = lines[4], lines[3]
    files["transcript.jsonl"] = b"".join(lines)


CHANGES: dict[str, tuple[Change, str]] = {
    "a bit of the model": (flip("model.safetensors", -1), "model.safetensors is not the file that the coordinator"),
    "a bit of the model's header": (flip("model.safetensors", 20), "model.safetensors is not the file"),
    "a bit of the transcript": (flip("transcript.jsonl", 500), "transcript.jsonl is not the file"),
    "a bit of the bill of materials": (flip("sbom.json", 900), "sbom.json is not the file"),
    "a word of the card for people": (
        lambda f: f.update({"model-card.md": f["model-card.md"].replace(b"not recorded", b"diagnosis   ", 1)}),
        "model-card.md is not the file",
    ),
    "no card for people": (lambda f: f.pop("model-card.md"), "the file model-card.md is missing"),
    "a card for people in HTML": (lambda f: f.update({"model-card.html": b"<p>"}), "which no package has"),
    "a fact for regulators": (field("documentation.json", "facts", 0, "value", value="x"), "documentation.json"),
    "a longer model": (lambda f: f.update({"model.safetensors": f["model.safetensors"] + b"0"}), "manifest says"),
    "a shorter transcript": (drop_line(-1), "transcript.jsonl has"),
    "two entries of the transcript exchanged": (swap_lines, "transcript.jsonl is not the file"),
    "a smaller epsilon": (field("card.json", "privacy", "promised_epsilon", value=0.1), "card.json"),
    "a better metric": (field("evaluation.json", "sites", value={"accuracy": 1.0}), "evaluation.json"),
    "another class": (field("inputs.json", "classes", value=["no", "maybe"]), "inputs.json"),
    "another version": (field("versions.json", "salus", value="9"), "versions.json"),
    "a ledger head less": (field("privacy.json", "heads", value=[]), "privacy.json"),
    "no model": (lambda f: f.pop("model.safetensors"), "the file model.safetensors is missing"),
    "no transcript": (lambda f: f.pop("transcript.jsonl"), "the file transcript.jsonl is missing"),
    "no card": (lambda f: f.pop("card.json"), "the file card.json is missing"),
    "no manifest": (lambda f: f.pop("manifest.json"), "the file manifest.json is missing"),
    "no roster": (lambda f: f.pop("roster.json"), "the file roster.json is missing"),
    "a second model": (lambda f: f.update({"model.json": b"{}"}), "model.json is not in the manifest"),
    "a file of no package": (lambda f: f.update({"run.py": b"import os"}), "'run.py', which no package has"),
    "a pickle": (lambda f: f.update({"model.pkl": b"\x80\x04."}), "'model.pkl', which no package has"),
    "cards exchanged": (swap("card.json", "evaluation.json"), "the manifest says"),
    "job and roster exchanged": (swap("job.json", "roster.json"), "roster.json is not signed by the consortium"),
    "a job of another coordinator": (signed_by_another("job.json"), "job.json is not the file"),
    "a roster of another consortium": (signed_by_another("roster.json"), "roster.json is not signed by the consortium"),
    "a manifest of another coordinator": (signed_by_another("manifest.json"), "not signed by the coordinator"),
    "a manifest that is a job": (lambda f: f.update({"manifest.json": f["job.json"]}), "manifest.json is not valid"),
    "a manifest of another kind": (field("manifest.json", "context", value="salus/job/1"), "manifest.json is not signed"),
    "a manifest of a newer format": (manifest(lambda m: m.update(format=2)), "reading side is too old"),
    "a manifest with another hash": (
        manifest(lambda m: m["files"][0].update(sha256="0" * 64)),
        "manifest.json is not signed",
    ),
    "a manifest with another job": (manifest(lambda m: m.update(job_sha256="0" * 64)), "manifest.json is not signed"),
    "a manifest with a later date": (
        manifest(lambda m: m.update(created="2030-01-01T00:00:00Z")),
        "manifest.json is not signed",
    ),
    "a manifest in another order": (manifest(lambda m: m["files"].reverse()), "by ascending name"),
    "a manifest with a file less": (manifest(lambda m: m["files"].pop(0)), "manifest.json is not valid"),
    "a manifest with a path": (manifest(lambda m: m["files"][0].update(name="../card.json")), "manifest.json is not"),
    "a manifest with a huge file": (manifest(lambda m: m["files"][0].update(size=10**9)), "manifest.json is not valid"),
    "a manifest with another key": (
        manifest(lambda m: m.update(consortium_key="a" * 64)),
        "another consortium",
    ),
    "a manifest that is no JSON": (lambda f: f.update({"manifest.json": b"[" * 100_000}), "manifest.json is not JSON"),
    "an empty job": (lambda f: f.update({"job.json": b""}), "job.json has 0 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_single_change_is_named(name: str, private_run: Path, private_package: Path, tmp_path: Path) -> None:
    change, sentence = CHANGES[name]
    files = content(private_package)
    change(files)
    for path in (write_folder(files, tmp_path / "folder"), write_zip(files, tmp_path / "package.zip")):
        with pytest.raises(PackageError) as found, checked_package(path, consortium_key(private_run)) as package:
            evidence_of(package)
        assert sentence in str(found.value)


def test_an_older_roster_is_named(private_run: Path, private_package: Path, tmp_path: Path) -> None:
    """The consortium's own signature over an earlier roster does not make it the roster of the job."""
    files, consortium = content(private_package), Identity.generate()
    now = json.loads(json.loads(files["roster.json"])["document"])

    def roster(serial: int) -> bytes:
        return Signed.seal(consortium, ROSTER_CONTEXT, canonical_json({**now, "serial": serial})).to_bytes()

    files["roster.json"] = roster(2)
    digest = hashlib.sha256(json.loads(files["roster.json"])["document"].encode()).hexdigest()
    named = {"consortium_key": consortium.public_key.hex(), "roster_sha256": digest}
    files = signed_again(files, private_run, lambda manifest: manifest.update(named))
    older = write_folder({**files, "roster.json": roster(1)}, tmp_path / "older")
    with (
        pytest.raises(PackageError, match="roster 1 of the consortium, not the one with which the job began"),
        checked_package(older, consortium.public_key),
    ):
        pass


def resigned(edit: Change) -> Callable[[Content, Path], Content]:
    def change(files: Content, run: Path) -> Content:
        edit(files)
        return signed_again(files, run)

    return change


def without_site(files: Content) -> None:
    """Drop a site's head and its line of the card everywhere."""
    files["privacy.json"] = changed_json(files["privacy.json"], lambda p: p["heads"].pop())


def forged_head(files: Content) -> None:
    files["privacy.json"] = changed_json(
        files["privacy.json"], lambda p: p["heads"][0].update(head="0" * 16 + p["heads"][0]["head"][16:])
    )


def cheaper(files: Content) -> None:
    """State half the epsilon, alike in both cards."""
    for name, inside in (("privacy.json", "card"), ("card.json", "privacy")):
        files[name] = changed_json(files[name], lambda p, key=inside: p[key]["sites"][0].update(epsilon=0.5))


def other_model(files: Content) -> None:
    data = bytearray(files["model.safetensors"])
    data[-1] ^= 1
    files["model.safetensors"] = bytes(data)


def fewer_sums(files: Content) -> None:
    files["transcript.jsonl"] = b"".join(files["transcript.jsonl"].splitlines(keepends=True)[:-1])


def raw_json(name: str, data: bytes) -> Change:
    return lambda files: files.update({name: data})


def in_the_test_split(number: bytes) -> Change:
    def change(files: Content) -> None:
        assert b'"test":{}' in files["evaluation.json"]
        files["evaluation.json"] = files["evaluation.json"].replace(b'"test":{}', b'"test":{"x":%s}' % number)

    return change


SIGNED_AGAIN: dict[str, tuple[Change, str]] = {
    "another model": (other_model, "not the model that the sites evaluated"),
    "a cheaper card": (cheaper, "the privacy card does not follow from transcript.jsonl"),
    "one cheaper card": (field("card.json", "privacy", "promised_epsilon", value=0.1), "state different privacy"),
    "a head less": (without_site, "the ledger heads in privacy.json are not those"),
    "a forged head": (forged_head, "ledger head of site 1 is not signed by that site"),
    "a better metric": (field("evaluation.json", "sites", value={"accuracy": 1.0}), "state different metrics"),
    "a shorter transcript": (fewer_sums, "names another transcript than manifest.json"),
    "another class": (field("inputs.json", "classes", value=["no", "maybe"]), "does not describe the model"),
    "another word for people": (
        lambda f: f.update({"model-card.md": f["model-card.md"].replace(b"not recorded", b"diagnosis   ", 1)}),
        "model-card.md does not say what the records",
    ),
    "an epsilon for people": (
        lambda f: f.update({"model-card.md": f["model-card.md"].replace(b"(3, ", b"(1, ")}),
        "model-card.md does not say what the records",
    ),
    "another fact for regulators": (
        field("documentation.json", "facts", 0, "value", value="x"),
        "documentation.json does not say what the records",
    ),
    "versions that are a list": (raw_json("versions.json", b"[1]"), "names another version of Salus"),
    "another version": (field("versions.json", "salus", value="9"), "names another version of Salus"),
    "a number that is none": (in_the_test_split(b"NaN"), "evaluation.json is not JSON"),
    "a number beyond every float": (in_the_test_split(b"1e999"), "evaluation.json is not JSON"),
    "a number that no float holds": (in_the_test_split(b"1" + b"0" * 400), "evaluation.json is not JSON"),
    "a key that occurs twice": (in_the_test_split(b'1,"x":2'), "evaluation.json is not JSON"),
    "another transform": (
        field("inputs.json", "transforms", value=[{"kind": "rescale"}]),
        "does not describe the inputs and outputs",
    ),
    "another unit": (field("inputs.json", "units", "shape", value="mm"), "does not describe the inputs and outputs"),
    "another job in the card": (field("card.json", "job_id", value="other-0001"), "is of another job"),
}


@pytest.mark.parametrize("name", SIGNED_AGAIN)
def test_a_coordinator_that_signs_a_change_is_found_out(
    name: str, private_run: Path, private_package: Path, tmp_path: Path
) -> None:
    edit, sentence = SIGNED_AGAIN[name]
    files = resigned(edit)(content(private_package), private_run)
    with (
        pytest.raises(SalusError, match=sentence),
        checked_package(write_folder(files, tmp_path / "p"), consortium_key(private_run)) as package,
    ):
        evidence_of(package)


def test_the_same_files_signed_again_are_valid(private_run: Path, private_package: Path, tmp_path: Path) -> None:
    """So the tests above fail for the change alone."""
    files = signed_again(content(private_package), private_run)
    with checked_package(write_folder(files, tmp_path / "p"), consortium_key(private_run)) as package:
        assert evidence_of(package).privacy.heads


def test_files_for_people_of_another_version_are_not_vouched_for(
    private_run: Path, private_package: Path, tmp_path: Path
) -> None:
    files = content(private_package)
    field("versions.json", "salus", value="0.0.9")(files)
    files = signed_again(files, private_run, lambda manifest: manifest.update(salus="0.0.9"))
    with checked_package(write_folder(files, tmp_path / "p")) as package:
        assert OTHER_WORDS in evidence_of(package).unproven
    with checked_package(private_package) as package:
        assert OTHER_WORDS not in evidence_of(package).unproven


def test_a_package_from_before_it_had_a_card_for_people_opens(
    private_run: Path, private_package: Path, tmp_path: Path
) -> None:
    files = content(private_package)
    del files["model-card.md"]
    with checked_package(write_folder(signed_again(files, private_run), tmp_path / "p")) as package:
        evidence_of(package)


def test_a_transcript_of_another_submission_is_named(private_run: Path, private_package: Path, tmp_path: Path) -> None:
    """The same job document, submitted twice, is two jobs; each has its own sums and its own cost."""
    files = content(private_package)
    field("card.json", "job_id", value="tiny-0002")(files)
    files = signed_again(readable_again(files), private_run, lambda manifest: manifest.update(job_id="tiny-0002"))
    with (
        checked_package(write_folder(files, tmp_path / "p")) as package,
        pytest.raises(PackageError, match="of another submission of the job"),
    ):
        evidence_of(package)


def test_a_transcript_of_another_job_is_named(
    plain_run: Path, private_run: Path, private_package: Path, tmp_path: Path
) -> None:
    other = content(export(plain_run, tmp_path / "plain"))
    files = {**content(private_package), "transcript.jsonl": other["transcript.jsonl"]}
    with (
        pytest.raises((PackageError, ProtectionError)),
        checked_package(write_folder(signed_again(files, private_run), tmp_path / "p")) as package,
    ):
        evidence_of(package)


def raw(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.write_bytes(edit(path.read_bytes()))


def duplicate(files: Content, path: Path) -> None:
    write_zip(files, path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("card.json", b"{}")


def bomb(files: Content, path: Path) -> None:
    write_zip({**files, "evaluation.json": bytes(17 * 2**20)}, path)


def lying_size(files: Content, path: Path) -> None:
    """State the size of the signed file for a member that holds more."""
    write_zip({**files, "evaluation.json": files["evaluation.json"] + b" " * 5000}, path)
    stated, real = len(files["evaluation.json"]), len(files["evaluation.json"]) + 5000
    raw(path, lambda data: data.replace(real.to_bytes(4, "little"), stated.to_bytes(4, "little")))


def other_name_inside(files: Content, path: Path) -> None:
    """Give a member another name in its own header than in the table of contents."""
    write_zip(files, path)
    raw(path, lambda data: data.replace(b"card.json", b"cord.json", 1))


def no_text(files: Content, path: Path) -> None:
    """Say that a member's name in its own header is UTF-8, which it is not."""
    write_zip(files, path)

    def edit(data: bytes) -> bytes:
        place = data.index(b"card.json")
        flags = (0x800).to_bytes(2, "little")
        return data[: place - 24] + flags + data[place - 22 : place] + b"\xff" + data[place + 1 :]

    raw(path, edit)


def in_a_comment(what: bytes) -> Callable[[Content, Path], None]:
    """Put something behind the last line of the table of contents, as a comment of that member."""

    def make(files: Content, path: Path) -> None:
        write_zip(files, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.filelist[-1].comment = what
            archive.comment = b" "  # so that the table is written again
            archive.comment = b""

    return make


def zero_byte(files: Content, path: Path) -> None:
    write_zip({**files, "sbom.jsonX": b""}, path)
    raw(path, lambda data: data.replace(b"sbom.jsonX", b"sbom.json\0"))


def link(files: Content, path: Path) -> None:
    write_folder(files, path)
    (path / "card.json").unlink()
    (path / "card.json").symlink_to("evaluation.json")


def with_members(change: Callable[[zipfile.ZipInfo], object]) -> Callable[[Content, Path], None]:
    """Write a zip of the same files whose lines say something else beside the names."""

    def make(files: Content, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                member = zipfile.ZipInfo(name)
                change(member)
                archive.writestr(member, data)

    return make


def links(member: zipfile.ZipInfo) -> None:
    member.external_attr = 0o120777 << 16


def another_name(member: zipfile.ZipInfo) -> None:
    """As zip programs write names in Unicode: `unzip` prefers this one."""
    name = b"../run.py"
    data = b"\x01" + zlib.crc32(member.filename.encode()).to_bytes(4, "little") + name
    member.extra = b"up" + len(data).to_bytes(2, "little") + data


def half_a_fact(member: zipfile.ZipInfo) -> None:
    member.extra = b"UT\xff\xff"


def between(data: bytes) -> Callable[[Content, Path], None]:
    """Hide bytes between the files and the table of contents, where a program that reads from the front finds a file."""

    def make(files: Content, path: Path) -> None:
        write_zip(files, path)

        def edit(found: bytes) -> bytes:
            table = int.from_bytes(found[-6:-2], "little")
            return found[:table] + data + found[table:-6] + (table + len(data)).to_bytes(4, "little") + found[-2:]

        raw(path, edit)

    return make


def hidden_file() -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("run.py", b"import os")
            table = archive.start_dir
        return file.getvalue()[:table]


TRICKS: dict[str, tuple[Callable[[Content, Path], object], str]] = {
    "a name above the folder": (lambda f, p: write_zip({**f, "../evil.json": b"{}"}, p), "'../evil.json', which no"),
    "an absolute name": (lambda f, p: write_zip({**f, "/etc/passwd": b""}, p), "'/etc/passwd', which no"),
    "a name with a backslash": (lambda f, p: write_zip({**f, "..\\card.json": b""}, p), "which no package has"),
    "a name with a zero byte": (zero_byte, "which no package has"),
    "a folder": (lambda f, p: write_zip({**f, "onnx/": b""}, p), "'onnx/', which no package has"),
    "a member twice": (duplicate, "the zip has the file card.json twice"),
    "a bomb": (bomb, "at most 16777216 are allowed"),
    "a size that is not true": (lying_size, "evaluation.json"),
    "two names for a member": (other_name_inside, "the file card.json in the zip is damaged"),
    "a name that is no text": (no_text, "the file card.json in the zip is damaged"),
    "a long table of contents": (in_a_comment(bytes(60000)), "table of contents is too long"),
    "two tables of contents": (in_a_comment(b"PK\x06\x07" + bytes(16)), "a second table of contents"),
    "bytes before the zip": (lambda f, p: (write_zip(f, p), raw(p, lambda d: b"MZ" + d)), "does not fit the file"),
    "bytes behind the zip": (lambda f, p: (write_zip(f, p), raw(p, lambda d: d + b"MZ")), "does not end where it says"),
    "a damaged member": (lambda f, p: (write_zip(f, p), raw(p, lambda d: d[:60] + bytes(20) + d[80:])), "is damaged"),
    "too many members": (lambda f, p: write_zip({f"{n}.json": b"" for n in range(1100)}, p), "has 1100 files"),
    "half a zip": (lambda f, p: (write_zip(f, p), raw(p, lambda d: d[: len(d) // 2])), "does not end where it says"),
    "links in a zip": (with_members(links), "in the zip is a link or a device"),
    "another name beside the name": (with_members(another_name), "the zip says more about the file"),
    "half of a fact beside the name": (with_members(half_a_fact), "the zip is damaged"),
    "a file behind the others": (between(hidden_file()), "between the files of the zip and its table of contents"),
    "a byte behind the files": (between(b"x"), "between the files of the zip and its table of contents"),
    "a link": (link, "'card.json' is a link"),
    "a large file": (lambda f, p: (write_folder(f, p), os.truncate(p / "job.json", 2**40)), "has 1099511627776 bytes"),
}  # fmt: skip


def test_zips_of_other_programs_open(private_package: Path, tmp_path: Path) -> None:
    """With times and owners beside the names, long sizes, or written to a pipe, where sizes stand behind the files."""
    files = content(private_package)

    def times(member: zipfile.ZipInfo) -> None:
        member.extra = b"UT\x05\x00\x03" + bytes(4) + b"ux\x0b\x00\x01\x04" + bytes(4) + b"\x04" + bytes(4)

    with_members(times)(files, tmp_path / "times.zip")
    with (tmp_path / "piped.zip").open("wb") as file:
        unseekable = io.BufferedWriter(Pipe(file))
        with zipfile.ZipFile(unseekable, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        unseekable.flush()
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:
        for name, data in files.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)
    for name in ("times.zip", "piped.zip", "long.zip"):
        with checked_package(tmp_path / name) as package:
            assert package.has("card.json")


class Pipe(io.RawIOBase):
    """Takes bytes one after the other."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_is_named(name: str, private_run: Path, private_package: Path, tmp_path: Path) -> None:
    make, sentence = TRICKS[name]
    path = tmp_path / "package"
    make(content(private_package), path)
    with pytest.raises(PackageError) as found, checked_package(path, consortium_key(private_run)) as package:
        evidence_of(package)
    assert sentence in str(found.value)


def test_the_command_names_a_change_and_a_consortium_that_is_not_pinned(
    private_run: Path, plain_run: Path, private_package: Path, tmp_path: Path
) -> None:
    good = salus("verify", private_package, "--kit", kit(private_run))
    assert good.returncode == 0, good.stderr
    assert "The package is valid" in good.stdout
    files = {**content(private_package), "sbom.json": b"{}"}
    bad = salus("verify", write_folder(files, tmp_path / "p"), "--kit", kit(private_run))
    assert bad.returncode == 14
    assert "sbom.json has 2 bytes" in bad.stderr
    other = salus("verify", private_package, "--kit", kit(plain_run))
    assert other.returncode == 14
    assert "another consortium" in other.stderr


def test_a_package_holds_canonical_json_only_and_no_path(private_package: Path) -> None:
    for name, data in content(private_package).items():
        assert str(private_package.parent).encode() not in data
        if name.endswith(".json"):
            assert canonical_json(json.loads(data)) == data, name
