"""The page that shows what transforms do."""

import re
from pathlib import Path

import numpy as np
from tests.cli import salus

from salus.client.previewing import write_preview
from salus.common.examples import Example
from salus.common.job import parse_job
from salus.common.tasks import make_task
from salus.simulations.samples import write_samples

JOB = """
[job]
name = "look"
rounds = 1
[task]
kind = "classification"
model = "cnn"
dataset = "d"
classes = ["healthy", "lesion"]
shape = [32, 32]
{steps}
"""
STEPS = '[[task.transforms]]\nkind = "resize"\n[[task.transforms]]\nkind = "rescale"\n[[task.transforms]]\nkind = "rotate"\n'


def pictures(page: str) -> list[str]:
    return re.findall(r'src="(data:image/png;base64,[^"]+)"', page)


def test_the_page_shows_each_step_and_each_copy(tmp_path: Path) -> None:
    data = write_samples(tmp_path / "phantoms", ("npz",), patients=20, seed=1, side=24)["npz"]
    (tmp_path / "job.toml").write_text(JOB.format(steps=STEPS))
    result = salus("job", "preview", "job.toml", data, "--images", 2, "--copies", 3, "--output", "p.html", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "p.html").read_text()
    assert len(pictures(page)) == 2 * (1 + 2 + 3)
    assert "Image 1 of" in page
    assert all(word in page for word in ("as stored", "0 resize", "1 rescale", "copy 3", "24 x 24", "32 x 32"))
    assert re.search(r"<td>-(1|0\.9\d*) to ", page), "after rescale, grey values begin at about -1"
    assert (tmp_path / "p.html").stat().st_mode & 0o777 == 0o600
    assert str(tmp_path) not in page


def test_a_page_can_be_made_again_and_masks_are_drawn(tmp_path: Path) -> None:
    chain = make_task(parse_job(JOB.format(steps=STEPS)).task).chain
    image = np.random.default_rng(1).random((1, 20, 20), dtype=np.float32)
    mask = np.zeros((1, 20, 20), np.uint8)
    mask[0, 5:12, 5:12] = 1
    plain = Example({"image": image}, frozenset({"image"}))
    marked = Example({"image": image, "mask": mask}, frozenset({"image", "mask"}))
    for name, example, seed in (("a", plain, 1), ("b", plain, 1), ("c", plain, 2), ("d", marked, 1)):
        write_preview(tmp_path / name, "t", chain, [("one", example)], copies=2, seed=seed)
    first, again, other, masked = (pictures((tmp_path / name).read_text()) for name in "abcd")
    assert first == again
    assert first[:3] == other[:3]
    assert first[3:] != other[3:]
    assert all(one != two for one, two in zip(first, masked, strict=True))


def test_an_image_that_a_step_cannot_use_says_so(tmp_path: Path) -> None:
    steps = '[[task.transforms]]\nkind = "spacing"\nmm = [1.0, 1.0]\n[[task.transforms]]\nkind = "center-crop"\n'
    chain = make_task(parse_job(JOB.format(steps=steps)).task).chain
    unplaced = Example({"image": np.zeros((1, 8, 8), np.float32)}, frozenset({"image"}))
    write_preview(tmp_path / "p.html", "t", chain, [("one", unplaced)], copies=2, seed=0)
    page = (tmp_path / "p.html").read_text()
    assert "cannot be used after as stored: its position and spacing in the patient are not known" in page


def test_a_job_that_does_not_fit_or_data_that_are_not_there_make_no_page(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(
        JOB.format(steps='[[task.transforms]]\nkind = "window"\nlow = 0.0\nhigh = 9.0\n')
    )
    result = salus("job", "preview", "job.toml", tmp_path, cwd=tmp_path)
    assert result.returncode == 10
    assert "transforms[0] window: the sides of 'image' still depend" in " ".join(result.stderr.split())
    (tmp_path / "job.toml").write_text(JOB.format(steps=STEPS))
    assert salus("job", "preview", "job.toml", "nothing", cwd=tmp_path).returncode == 11
    assert not (tmp_path / "preview.html").exists()
