"""What a run says while it works."""

from __future__ import annotations

import io
import json

import pytest

from holdfast.core.listeners import format_duration, show_value
from holdfast.core.progress import Progress
from holdfast.core.terminal import paint_text


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def streams() -> dict:
    return {"err": io.StringIO(), "out": io.StringIO(), "clock": Clock()}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_of_the_design() -> None:
    s = streams()
    ui = Progress("plain", **s)
    ui.start_phase("step", 480)
    s["clock"].now = 240.0
    ui.advance(120, loss=1.21, target=(41.2, 6.0), keep=(63.1, -0.4), tokens_per_second=8100, memory_gib=2.1)
    assert s["err"].getvalue() == (
        "step 120/480 25% | loss 1.21 | target 41.2 (+6.0) | keep 63.1 (-0.4) | 8.1k tok/s | 2.1 GiB | 12m left\n"
    )


def test_plain_lines_come_every_few_seconds_and_values_stay() -> None:
    s = streams()
    ui = Progress("plain", **s)
    ui.start_phase("step", 100)
    for i in range(100):
        s["clock"].now = i * 0.1
        ui.advance(loss=2.0 if i == 0 else None)
    ui.close()
    ui.close()
    lines = s["err"].getvalue().splitlines()
    assert lines[0].startswith("step 51/100 51% | loss 2 | ")
    assert lines[1:] == ["step 100/100 100% | loss 2 | 10s"]


def test_time_left_is_not_fooled_by_going_on_in_the_middle() -> None:
    s = streams()
    ui = Progress("json", **s)
    ui.start_phase("train", 100)
    s["clock"].now = 30.0
    ui.advance(80)
    s["clock"].now = 32.0
    ui.advance(1)
    assert json.loads(s["out"].getvalue().splitlines()[-1])["left"] == 38.0


def test_quiet_says_warnings_and_results_only() -> None:
    s = streams()
    ui = Progress("plain", quiet=True, **s)
    ui.start_phase("step", 1)
    ui.advance()
    ui.write_line("x")
    ui.warn("careful")
    ui.warn("careful")
    ui.report_result("done", n=1)
    assert (s["err"].getvalue(), s["out"].getvalue()) == ("warning: careful\n", "done\n")


def test_detail_needs_verbose() -> None:
    s = streams()
    Progress("plain", **s).write_detail("x")
    assert s["err"].getvalue() == ""
    Progress("plain", verbose=True, **s).write_detail("x")
    assert s["err"].getvalue() == "x\n"


def test_json_lines() -> None:
    s = streams()
    ui = Progress("json", **s)
    ui.start_phase("step", 2)
    s["clock"].now = 1.0
    ui.advance(target=(41.0, 6.0))
    ui.advance()
    ui.warn("careful")
    ui.report_result("text", text="kept", name="x")
    events = [json.loads(line) for line in s["out"].getvalue().splitlines()]
    assert [e["event"] for e in events] == ["phase", "progress", "progress", "warning", "result"]
    assert events[1]["target_delta"] == 6.0
    assert (events[1]["done"], events[1]["left"]) == (1, 1.0)
    assert events[-1] == {"event": "result", "text": "kept", "name": "x"}
    assert s["err"].getvalue() == ""


def test_silent_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Progress.create_silent()
    ui.start_phase("x", 3)
    ui.advance()
    ui.write_line("x")
    ui.warn("x")
    ui.report_result("x")
    assert capsys.readouterr() == ("", "")


def test_only_rank_0_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert Progress.for_terminal().mode == "silent"
    monkeypatch.setenv("RANK", "0")
    assert Progress.for_terminal().mode == "plain"
    assert Progress.for_terminal(as_json=True).mode == "json"


def test_live_updates_one_line_and_keeps_sentences() -> None:
    err, out = Terminal(), io.StringIO()
    ui = Progress("live", err=err, out=out)
    ui.start_phase("step", 2)
    ui.advance(loss=1.5)
    ui.write_line("a sentence [not markup]")
    ui.advance()
    ui.report_result("the end")
    text = err.getvalue()
    assert "a sentence [not markup]" in text
    assert text.rstrip().splitlines()[-1].endswith("step 2/2 100% | loss 1.5 | 0s")
    assert out.getvalue() == "the end\n"


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint_text("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    assert paint_text("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint_text("x", "red", Terminal()) == "x"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (89, "89s"), (120, "2m"), (3600, "60m"), (5700, "1h 35m")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_values() -> None:
    assert show_value("tokens_per_second", 412.4) == "412 tok/s"
    assert show_value("keep", 63.06) == "keep 63.1"
    assert show_value("learning_rate", 1.23456e-4) == "learning_rate 0.000123"
    assert show_value("skill", "sums") == "skill sums"
