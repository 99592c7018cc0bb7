"""Limits on foreign code: what hangs is stopped wherever Python comes by, and nothing of the limit stays behind."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from holdfast.core.time_limit import OutOfTime, TimeLimit


def sleep_for_ever():
    time.sleep(99)


def wait_for_a_lock():
    lock = threading.Lock()
    with lock:
        lock.acquire()


def try_for_ever():
    while True:
        try:
            time.sleep(99)
        except Exception:
            continue


def turn_it_into_another_error():
    try:
        time.sleep(99)
    except BaseException as error:
        raise ValueError("something else") from error


@pytest.mark.parametrize(
    "hang", [sleep_for_ever, wait_for_a_lock, try_for_ever, turn_it_into_another_error], ids=lambda f: f.__name__
)
def test_what_hangs_is_stopped_however_it_catches_errors(hang):
    began = time.monotonic()
    with pytest.raises(OutOfTime, match=r"no answer within 0\.02 s"), TimeLimit(0.02):
        hang()
    assert time.monotonic() - began < 5


def test_a_swallowed_alarm_is_raised_again(monkeypatch):
    monkeypatch.setattr("holdfast.core.time_limit.AGAIN", 0.02)
    swallowed = []

    def swallow():
        try:
            time.sleep(99)
        except:  # noqa: E722 - as bad code does
            swallowed.append(True)
        time.sleep(99)

    with pytest.raises(OutOfTime), TimeLimit(0.02):
        swallow()
    assert swallowed


def test_what_comes_back_or_raises_in_time_is_left_alone():
    with TimeLimit(0.02):
        pass
    with TimeLimit(None):
        time.sleep(0.03)  # the first one's time is over
    with pytest.raises(TimeoutError, match="its own") as raised, TimeLimit(5):
        raise TimeoutError("its own")
    assert not isinstance(raised.value, OutOfTime)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_handler_and_a_timer_of_somebody_else_are_there_again_with_what_was_left():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 50)
        with TimeLimit(10):
            time.sleep(0.05)
        assert 49 < signal.getitimer(signal.ITIMER_REAL)[0] < 49.96
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with TimeLimit(10):
            time.sleep(0.05)
            assert not rung
        time.sleep(0.01)
        assert len(rung) == 1, "what was due meanwhile comes at once"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_in_another_thread_nothing_is_limited():
    ended = []

    def work():
        with TimeLimit(0.01):
            time.sleep(0.05)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended


def test_an_alarm_that_rings_while_the_limit_begins_or_ends_is_no_other_error():
    for i in range(300):
        with contextlib.suppress(OutOfTime), TimeLimit(1e-6 * (1 + i % 60)):
            sum(range(20))
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
