"""All studies of a PACS, over whichever protocol: what is new is fetched, and the list is read until it holds nothing new."""

from collections.abc import Callable, Generator, Iterator

from salus.client.data.incoming.files import Incoming
from salus.client.data.incoming.progress import STORED, Progress
from salus.common.errors import UnreadableImage

ROUNDS = 20  # of reading the list; a PACS that gets studies faster than we fetch them must not keep us forever
Problems = list[UnreadableImage]
Studies = dict[str, int | None]  # number of objects, if the PACS states it
# Yields what is new in a study, adds each object that it has dealt with to the set, and returns what is wrong with its list.
Fetch = Callable[[str, int | None, set[str]], Generator[Incoming, None, Problems]]
Tell = Callable[[int, int], None]


def everything(
    studies: Callable[[], tuple[Studies, Problems]], fetch: Fetch, progress: Progress, tell: Tell
) -> Iterator[Incoming]:
    """Yield every object that is not stored yet; what the PACS does not list or send counts as a refused file.

    Args:
        studies: reads the list, and says what is wrong with it.
        progress: what earlier imports have stored; gets the numbers of studies and objects that the PACS lists.
        tell: called with the number of finished studies and the total.

    Guarantees: each object is yielded once, also if it arrives at the PACS meanwhile or its study grows.
    """
    handled: dict[str, set[str]] = {}
    problems: dict[str, Problems] = {}  # the newest of each list, so that none counts twice
    for _ in range(ROUNDS):
        found, named = studies()
        problems[""] = max(named, problems.get("", []), key=len)
        open_ = [uid for uid, total in found.items() if uid not in handled or total not in (None, len(handled[uid]))]
        before = _size(handled)
        for done, study in enumerate(open_):
            tell(len(found) - len(open_) + done, len(found))
            problems[study] = yield from fetch(study, found[study], handled.setdefault(study, set()))
        if before == _size(handled):
            break
    for study, of_study in problems.items():
        yield from (Incoming("", problem, study) for problem in of_study)
    progress.listed.update(studies=len(handled), objects=sum(map(len, handled.values())))
    tell(len(handled), len(handled))


def known(progress: Progress, study: str, name: str) -> Iterator[Incoming] | None:
    """Return what to yield for an object that an earlier import has dealt with, or None if it is to be fetched."""
    before = progress.outcome(study, name)
    if before is None:
        return None
    if before == STORED:
        progress.earlier += 1
        return iter(())
    return iter([Incoming(name, UnreadableImage(before, "refused by an earlier import"), study)])


def _size(handled: dict[str, set[str]]) -> tuple[int, int]:
    return len(handled), sum(map(len, handled.values()))
