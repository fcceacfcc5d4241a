"""Nothing of anybody's text reaches a terminal as a command, whichever way it is printed."""

import io
import re
from collections.abc import Callable

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

from salus.common import console
from salus.common.console import SafeConsole, shown
from salus.common.errors import RoundError

OSC52 = "\x1b]52;c;ZXZpbA==\x07"
EVIL = f"St. Mary[/] [red]0000 0000[/]{OSC52}\x1b[2J\x9b31m\r\u202e\u200b\x00end\\"
OWN = re.compile(r"\r?\x1b\[(?:[0-9;]*m|\?25[lh]|2K|1A)")  # rich's own colours and cursor; the text above uses others


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    made = SafeConsole(file=text, force_terminal=True, width=400, color_system="truecolor")
    monkeypatch.setattr(console, "out", made)
    monkeypatch.setattr(console, "err", made)
    return text


def harmless(text: str) -> None:
    rest = OWN.sub("", text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u200b]", rest), repr(rest)
    assert "52;c" in rest, "the text itself is still shown"


WAYS: dict[str, Callable[[], None]] = {
    "plain": lambda: console.out.print(EVIL, markup=False),
    "embedded": lambda: console.out.print(f"[bold]{shown(EVIL)}[/]"),
    "markup by mistake": lambda: console.out.print(EVIL.replace("[/]", "")),
    "table": lambda: console.table(EVIL, [EVIL], [[EVIL]]),
    "raw table": lambda: raw_table(),
    "progress": lambda: progress(),
    "link": lambda: console.out.print("[link=https://x/\x1b]52;c;eA==\x07]" + shown(EVIL) + "[/link]"),
    "log": lambda: console.out.log(EVIL, markup=False),
}


def raw_table() -> None:
    grid = Table("x")
    grid.add_row(EVIL.replace("[/]", ""))
    console.out.print(grid)


def progress() -> None:
    with Progress(TextColumn("{task.description}"), console=console.out) as bar:
        bar.add_task(shown(EVIL), total=1)
        bar.console.print(EVIL, markup=False)


@pytest.mark.parametrize("way", WAYS)
def test_text_of_others_cannot_command_a_terminal(screen: io.StringIO, way: str) -> None:
    WAYS[way]()
    harmless(screen.getvalue())


def test_an_error_of_another_party_is_one_harmless_line(screen: io.StringIO) -> None:
    def fail() -> None:
        raise RoundError(EVIL + "\nError: all is well", remedy="")

    with pytest.raises(SystemExit) as ended:
        console.run(fail)
    assert ended.value.code == 50
    harmless(screen.getvalue())
    assert screen.getvalue().count("\n") == 1


def test_markup_in_a_name_hides_nothing(screen: io.StringIO) -> None:
    console.out.print(f"Added {shown('[black on black]')} with fingerprint [bold]1234[/]")
    console.table("", ["name"], [["[/bold] [hidden]x[/]"]])
    text = OWN.sub("", screen.getvalue())
    assert "Added [black on black] with fingerprint 1234" in text
    assert "[/bold] [hidden]x[/]" in text


def test_json_is_printable_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit_json({EVIL: EVIL})
    assert re.fullmatch(r"[\x20-\x7e\n]*", capsys.readouterr().out)


def test_the_check_of_these_tests_can_fail() -> None:
    with pytest.raises(AssertionError):
        harmless(EVIL)


def test_a_title_is_one_line_also_above_a_narrow_table(screen: io.StringIO) -> None:
    console.table("What the coordinator and jobs may know about chest", ["", ""], [["a", 1]])
    assert "may know about chest" in screen.getvalue()


class Full(io.StringIO):
    """A file on a disk that is full."""

    full = True

    def flush(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")


def test_a_full_disk_behind_the_console_stops_no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Full()
    monkeypatch.setattr(console, "out", SafeConsole(file=disk, width=80))
    console.tell("connected")
    console.tell("disconnected", alarm=True)
    disk.full = False
    console.tell("connected again")
    assert disk.getvalue().count("connected again") == 1
