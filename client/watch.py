"""Tells a site's operator about unusable data: an event when a problem begins, one when it is resolved, a state in between."""

from salus.client.data.catalogue import Catalogue
from salus.client.data.preparing import read_registered
from salus.client.data.troubles import Finding, Trouble
from salus.client.running import Running
from salus.common.errors import DataError
from salus.common.events import EventSink


class DataWatch:
    """Records the data problems of one site; none of this leaves the site."""

    def __init__(self, catalogue: Catalogue, events: EventSink) -> None:
        self._catalogue, self._events = catalogue, events

    def look(self, running: Running) -> None:
        """Note what a job found out about its data set in its last step, or that the data can be used again."""
        finding = running.trouble()
        if finding is None:
            self._clear(running.job.task.dataset)
        else:
            self.note(running.job.task.dataset, finding)

    def note(self, dataset: str, finding: Finding) -> None:
        """Record a problem with a data set."""
        if self._catalogue.troubles.put(dataset, finding):
            self._events.emit("data-trouble", dataset=dataset, text=finding.problem)

    def recheck(self, running: Running | None) -> None:
        """Forget who has withdrawn, try again to read what could not be read, and clear resolved problems.

        Args:
            running: the job of the last request. Its problem stays open while it runs without its data.
        """
        if running is not None:
            running.without_withdrawn()
        for trouble in self._catalogue.troubles.all():
            mine = running if running is not None and running.job.task.dataset == trouble.dataset else None
            waits = mine is not None and not trouble.keys and mine.trouble() is not None
            if not waits and self._mended(trouble, needed=mine is not None):
                if mine is not None:
                    mine.mended()
                self._clear(trouble.dataset)

    def _mended(self, trouble: Trouble, *, needed: bool) -> bool:
        if trouble.dataset not in self._catalogue.names():
            return not needed  # removed, and no job asks for it any more
        try:
            images = {image.key: image for image in self._catalogue.images(trouble.dataset)}
            source = self._catalogue.source(trouble.dataset)
            for key in trouble.keys or list(images)[:1]:
                if key in images:  # otherwise the data set was registered again without this image
                    read_registered(source, images[key])
        except (DataError, OSError):
            return False
        return True

    def _clear(self, dataset: str) -> None:
        if self._catalogue.troubles.clear(dataset):
            self._events.emit("data-mended", dataset=dataset)
