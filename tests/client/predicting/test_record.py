import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salus.client.predicting.record import PROGRESS, RUN, Outcome, Record, Run, row_of
from salus.common.errors import ConfigError

RUNS = Run(model_sha256="a", job_sha256="b", data_sha256="c", outputs=("masks",))


def outcome(name: str, **more: object) -> Outcome:
    return Outcome(item=f"{name}.png", name=name, **more)  # type: ignore[arg-type]


def test_a_stopped_run_goes_on_and_a_line_cut_short_is_done_again(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Record(folder, RUNS) as record:
        path = record.path("masks", "a", ".png")
        path.write_bytes(b"x")
        record.finish("k1", outcome("a", files={"masks": "masks/a.png"}))
        record.finish("k2", outcome("b"))
    whole = (folder / PROGRESS).read_text()
    (folder / PROGRESS).write_text(whole[:-5])  # the power failed within the last line
    with Record(folder, RUNS) as record:
        assert list(record.done) == ["k1"]
        record.finish("k2", outcome("b"))
    with Record(folder, RUNS) as record:
        assert list(record.done) == ["k1", "k2"]
    path.unlink()  # a file that is gone is written again
    with Record(folder, RUNS) as record:
        assert list(record.done) == ["k2"]


def test_results_of_another_run_are_never_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    Record(folder, RUNS).__exit__()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for change, word in (
        ({"model_sha256": "x"}, "another model"),
        ({"job_sha256": "x", "data_sha256": "y"}, "another job and another data"),
        ({"outputs": ("masks", "seg")}, "another outputs"),
    ):
        with pytest.raises(ConfigError, match=word):
            Record(folder, RUNS.model_copy(update=change))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / RUN).write_text("{}")
    with pytest.raises(ConfigError, match="record of the earlier run"):
        Record(folder, RUNS)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no predictions"):
        Record(tmp_path, RUNS)
    with pytest.raises(ConfigError, match="not a folder"):
        Record(tmp_path / "notes.txt", RUNS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with Record(tmp_path / "out", RUNS), pytest.raises(ConfigError, match="already writing"):
        Record(tmp_path / "out", RUNS)


@example(["/", ".png", "..", "a/.nii.gz", "a/", "."])
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=12))
def test_names_of_files_stay_inside_and_differ(items: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place, Record(Path(place) / "out", RUNS) as record:
        names = [record.name_for(item) for item in items]
        assert len({name.lower() for name in names}) == len(names)
        for name in names:
            assert record.path("masks", name, ".png").parent == record.folder / "masks"
            assert "/" not in name
            assert not name.startswith(".")
            assert len(name) < 120


def test_plain_names_are_kept(tmp_path: Path) -> None:
    with Record(tmp_path / "out", RUNS) as record:
        assert record.name_for("patients/a 1/t1.nii.gz") == "patients_a_1_t1"
        assert record.name_for("patients/a_1/t1.nii.gz") == "patients_a_1_t1-2"
        assert record.name_for("../../etc/passwd") == "etc_passwd"
    assert json.loads((tmp_path / "out" / RUN).read_text())["format"] == "salus/predictions/1"


@pytest.mark.parametrize(
    "place", ["{outside}", "../outside.png", "masks/../../outside.png", "masks/..", "masks/a/b.png"]
)
def test_a_line_that_names_a_file_elsewhere_is_not_believed(tmp_path: Path, place: str) -> None:
    """The page shows the files that the lines name, and would show any other picture of the machine."""
    folder = tmp_path / "out"
    (tmp_path / "outside.png").write_bytes(b"x")
    with Record(folder, RUNS) as record:
        nested = record.path("masks", "a", "") / "b.png"
        nested.parent.mkdir()
        nested.write_bytes(b"x")
        record.finish("k1", outcome("a", files={"overlays": place.format(outside=tmp_path / "outside.png")}))
    with Record(folder, RUNS) as record:
        assert record.done == {}


def test_a_number_never_overwrites_what_it_is_about() -> None:
    row = row_of(outcome("a", values={"item": 1.0, "label": 2.0, "age": 3.0}, label="x"))
    assert row == {"item": "a.png", "label": "x", "value_item": 1.0, "value_label": 2.0, "age": 3.0}
