"""Who listens to the events of a run: one live line on a terminal, plain lines elsewhere, JSON lines for machines.

Progress goes to standard error, results to standard output; with `--json` everything goes to standard output, one
object a line. `NO_COLOR` is respected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from holdfast.core.events import (
    Event,
    LineWritten,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    ResultGiven,
    Warned,
)
from holdfast.core.safe_text import CONTROL, make_printable
from holdfast.core.terminal import paint_text, shown_text

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_SECONDS = 5.0
"""Between two plain lines of the same phase."""

JSON_SECONDS = 0.5
"""Between two JSON lines of progress; the last of a phase is always written."""


class PlainLines:
    """Lines of text: sentences, warnings and results at once, progress every few seconds and at the end of a phase.

    Args:
        err, out: For progress, and for results.
        quiet: Only warnings and results.
    """

    def __init__(self, err: IO[str], out: IO[str], *, quiet: bool = False) -> None:
        self.err, self.out, self.quiet = err, out, quiet
        self._warnings: set[str] = set()
        self._printed_at = 0.0  # seconds into the phase

    def handle_event(self, event: Event) -> None:
        """Write what there is to say of an event."""
        if isinstance(event, Warned):
            if event.text not in self._warnings:
                self._warnings.add(event.text)
                self.write_line(self.err, f"{paint_text('warning:', 'yellow', self.err)} {event.text}")
        elif isinstance(event, ResultGiven):
            if event.text:
                self.write_line(self.out, event.text)
        elif isinstance(event, PhaseStarted):
            self._printed_at = 0.0
            self.show_phase(event)
        elif self.quiet:
            return
        elif isinstance(event, LineWritten):
            self.write_line(self.err, event.text)
        elif isinstance(event, PhaseAdvanced):
            self.show_phase(event)
        elif isinstance(event, PhaseEnded) and (event.done > 0 or event.seconds >= 1.0):
            self.write_line(self.err, format_phase(event))

    def show_phase(self, event: PhaseStarted | PhaseAdvanced) -> None:
        """Show how far a phase is."""
        if isinstance(event, PhaseAdvanced) and event.seconds - self._printed_at >= PLAIN_SECONDS:
            self._printed_at = event.seconds
            self.write_line(self.err, format_phase(event))

    def write_line(self, stream: IO[str], text: str) -> None:
        """Write a line."""
        print(shown_text(text, stream), file=stream, flush=True)


class LiveLine(PlainLines):
    """One line at the foot of a terminal that is always up to date, sentences above it; as PlainLines otherwise."""

    _live: Live | None = None

    def handle_event(self, event: Event) -> None:
        """Write or show what there is to say of an event."""
        if isinstance(event, PhaseEnded) and self._live is not None:
            self._live.stop()  # the last state of a phase stays as a plain line
            self._live = None
        super().handle_event(event)

    def show_phase(self, event: PhaseStarted | PhaseAdvanced) -> None:
        """Bring the live line up to date."""
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            self._live = Live(console=Console(file=self.err), refresh_per_second=8, transient=True)
            self._live.start()
        self._live.update(Text(make_printable(format_phase(event)), no_wrap=True, overflow="ellipsis"))

    def write_line(self, stream: IO[str], text: str) -> None:
        """Write a line above the live one."""
        if self._live is None:
            super().write_line(stream, text)
        else:
            from rich.text import Text

            self._live.console.print(Text.from_ansi(shown_text(text, stream)), soft_wrap=True)


class JsonLines:
    """One JSON object a line, for machines."""

    def __init__(self, out: IO[str]) -> None:
        self.out = out
        self._warnings: set[str] = set()
        self._printed_at = 0.0

    def handle_event(self, event: Event) -> None:
        """Write what there is to say of an event."""
        if isinstance(event, PhaseStarted):
            self._printed_at = 0.0
            self._write_object("phase", name=event.name, total=event.total)
        elif isinstance(event, PhaseAdvanced):
            self._show_progress(event)
        elif isinstance(event, LineWritten):
            self._write_object("line", text=event.text)
        elif isinstance(event, Warned) and event.text not in self._warnings:
            self._warnings.add(event.text)
            self._write_object("warning", text=event.text)
        elif isinstance(event, ResultGiven):
            self._write_object("result", **event.data)

    def _show_progress(self, event: PhaseAdvanced) -> None:
        if event.seconds - self._printed_at >= JSON_SECONDS or event.done == event.total:
            self._printed_at = event.seconds
            self._write_object(
                "progress", phase=event.name, done=event.done, total=event.total, left=event.left,
                **_flatten_pairs(event.figures),
            )  # fmt: skip

    def _write_object(self, event: str, /, **data: Any) -> None:
        text = json.dumps({"event": event, **data}, ensure_ascii=False, default=str)
        # JSON escapes only some of what a terminal obeys; inside its strings the rest can be escaped likewise.
        text = CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
        print(shown_text(text, self.out), file=self.out, flush=True)


def format_phase(event: PhaseStarted | PhaseAdvanced | PhaseEnded) -> str:
    """How far a phase is, in one line: "step 120/480 25% | loss 1.21 | 12m left"."""
    units = 0 if isinstance(event, PhaseStarted) else event.done
    figures = {} if isinstance(event, PhaseStarted) else event.figures
    count = (
        f"{units:,}/{event.total:,} {100 * units // max(1, event.total)}%"
        if event.total
        else f"{units:,}" * bool(units)
    )
    parts = [
        f"{event.name} {count}".strip(),
        *(show_value(key, figures[key]) for key in sorted(figures, key=_display_rank)),
    ]
    if isinstance(event, PhaseEnded):
        parts.append(format_duration(event.seconds))
    elif isinstance(event, PhaseAdvanced) and event.left is not None:
        parts.append(f"{format_duration(event.left)} left")
    return " | ".join(parts)


BITS = ("target_bits", "held_out", "text")
"""Figures on the live line that are bits, not points."""


def _display_rank(key: str) -> int:
    """Where a value stands on the line: results, then whatever else, then what it costs."""
    first = ("loss", "target", *BITS, "keep")
    return first.index(key) if key in first else {"tokens_per_second": 98, "memory_gib": 99}.get(key, 50)


def show_value(key: str, value: Any) -> str:
    """One entry of the live line."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        name, digits = key.removesuffix("_bits").replace("_", " "), 3 if key in BITS else 1
        unit = " bits" if key in BITS else ""  # the loss on the same line is in nats
        return f"{name} {value[0]:.{digits}f}{unit} ({value[1]:+.{digits}f})"
    if key == "tokens_per_second":
        return f"{value / 1000:.1f}k tok/s" if value >= 1000 else f"{value:.0f} tok/s"
    if key == "memory_gib":
        return f"{value:.1f} GiB"
    if key in ("target", "keep") and isinstance(value, (int, float)):
        return f"{key} {value:.1f}"
    return f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"


def format_duration(seconds: float) -> str:
    """`8s`, `12m`, `1h 05m`."""
    if seconds < 90:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 90 else f"{minutes // 60}h {minutes % 60:02d}m"


def _flatten_pairs(figures: Mapping[str, Any]) -> dict[str, Any]:
    """`(score, change)` as two JSON values."""
    out: dict[str, Any] = {}
    for key, value in figures.items():
        if isinstance(value, (tuple, list)) and len(value) == 2:
            out[key], out[f"{key}_delta"] = value
        else:
            out[key] = value
    return out
