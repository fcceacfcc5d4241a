"""Pages: how large their pictures are shown."""

from pathlib import Path

from salus.common.pages import Section, write_page

PICTURE = ("a curve", "data:image/png;base64,AA==")


def test_a_picture_in_its_own_size_is_not_shrunk_to_a_thumbnail(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "Curves", "", [Section("Curve", pictures=[PICTURE], full=True)])
    text = (tmp_path / "page.html").read_text()
    assert '<figure class="full">' in text
    assert "\nfigure.full img { width: auto; height: auto; max-width: 100%; background: #fff; }" in text
