"""What Flower says of an answer that came too late is no news to an operator; everything else it says is."""

import logging

from salus.server.daemon import quiet_flower


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("flwr", logging.ERROR, "", 0, text, None, None)


def test_only_late_answers_are_not_logged() -> None:
    assert not quiet_flower(record("[ApiError:2007] SuperNode 1, exception: Run is finished."))
    assert quiet_flower(record("[ApiError:2008] SuperNode 1, exception: something else"))
