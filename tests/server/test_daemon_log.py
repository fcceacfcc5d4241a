"""What Flower and uvicorn say of everyday events is not shown to an operator as an error; everything else they say is."""

import logging

from salus.server.daemon import is_news


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("flwr", logging.ERROR, "", 0, text, None, None)


def test_only_everyday_events_are_not_logged() -> None:
    assert not is_news(record("[ApiError:2007] SuperNode 1, exception: Run is finished."))
    assert not is_news(record("Cancel 4 running task(s), timeout graceful shutdown exceeded"))
    assert is_news(record("[ApiError:2008] SuperNode 1, exception: something else"))
    assert is_news(record("Exception in ASGI application"))
