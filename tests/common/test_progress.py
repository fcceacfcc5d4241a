"""How far work is, for the daemon: each change is told, and now and then that the work goes on."""

from salus.common.progress import REPEAT_S, Progress, Reporter


def test_changes_are_told_at_once_and_work_that_goes_on_now_and_then() -> None:
    told: list[Progress] = []
    now = [0.0]
    reporter = Reporter(told.append, lambda: now[0])
    reporter.begin("a" * 64)
    reporter.at("training", 0.001)
    for _ in range(1000):  # batches of a second, all of them in the first percent
        now[0] += 1.0
        reporter.at("training", 0.002)
        reporter.goes_on()
    assert [one.step for one in told[:2]] == ["checking", "training"]
    assert told[1:] == [told[1]] * (1 + int(1000 // REPEAT_S))
    reporter.at("training", 0.01)
    assert told[-1].percent == 1
