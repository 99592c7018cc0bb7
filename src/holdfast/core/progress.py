"""What a run says while it works: one live line on a terminal, plain lines elsewhere, JSON lines for machines.

Progress goes to standard error, results to standard output; with `--json` everything goes to standard output, one
object a line. `NO_COLOR` is respected, and only rank 0 of a distributed run speaks.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal

from holdfast.core.safe_text import CONTROL, printable

if TYPE_CHECKING:
    from rich.live import Live

Mode = Literal["live", "plain", "json", "silent"]

PLAIN_SECONDS = 5.0
"""Between two plain lines of the same phase."""

JSON_SECONDS = 0.5
"""Between two JSON lines of progress; the last of a phase is always written."""


class Progress:
    """The voice of a run: `phase`, then `advance`; `line`, `detail` and `warn` for sentences, `result` for the outcome.

    Args:
        mode: "live" (a terminal), "plain", "json", "silent"; `for_terminal` chooses.
        quiet: Only warnings and results.
        verbose: Also `detail`.
        err, out: Streams; default standard error and standard output.
        clock: Seconds, for tests.
    """

    _first: tuple[float, int] | None
    _printed: float

    def __init__(
        self,
        mode: Mode = "plain",
        *,
        quiet: bool = False,
        verbose: bool = False,
        err: IO[str] | None = None,
        out: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode: Mode = mode
        self.quiet, self.verbose = quiet, verbose
        self._err, self._out, self._clock = err or sys.stderr, out or sys.stdout, clock
        self._live: Live | None = None
        self._warned: set[str] = set()
        self._begin("", None)

    @classmethod
    def silent(cls) -> Progress:
        """Says nothing: for the Python API."""
        return cls("silent")

    @classmethod
    def for_terminal(cls, *, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> Progress:
        """The mode that fits the streams, the environment and the rank of this process."""
        if int(os.environ.get("RANK", "0")) != 0:
            return cls.silent()
        if as_json:
            return cls("json", quiet=quiet, verbose=verbose)
        live = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and not quiet
        return cls("live" if live else "plain", quiet=quiet, verbose=verbose)

    def phase(self, name: str, total: int | None = None) -> None:
        """A new stretch of work: what it is called, and how many units (steps, questions) it has, if known."""
        self._finish()
        self._begin(name, total)
        if self.mode == "json":
            self._json("phase", name=name, total=total)
        elif self.mode == "live":
            self._refresh()

    def advance(self, n: int = 1, **shown: Any) -> None:
        """`n` units are done; `shown` values stay on the line until replaced.

        Known names: loss, target and keep (a score, or `(score, change)`), tokens_per_second, memory_gib; anything else
        is shown as `name value`.
        """
        self.done += n
        self.shown.update({key: value for key, value in shown.items() if value is not None})
        now = self._clock()
        self._first = self._first or (now, self.done)
        if self.mode == "json":
            if now - self._printed >= JSON_SECONDS or self.done == self.total:
                self._printed = now
                self._json(
                    "progress",
                    phase=self.name,
                    done=self.done,
                    total=self.total,
                    left=self._left(now),
                    **_flat(self.shown),
                )
        elif self.mode == "live":
            self._refresh()
        elif self.mode == "plain" and not self.quiet and now - self._printed >= PLAIN_SECONDS:
            self._printed = now
            self._write(self._err, self._sentence(now))

    def line(self, text: str) -> None:
        """A sentence that stays."""
        if self.mode == "json":
            self._json("line", text=text)
        elif not self.quiet:
            self._write(self._err, text)

    def detail(self, text: str) -> None:
        """A sentence for `-v`."""
        if self.verbose:
            self.line(text)

    def warn(self, text: str) -> None:
        """A warning, shown once however often it is given."""
        if text in self._warned:
            return
        self._warned.add(text)
        if self.mode == "json":
            self._json("warning", text=text)
        else:
            self._write(self._err, f"{paint('warning:', 'yellow', self._err)} {text}")

    def result(self, text: str, /, **data: Any) -> None:
        """What came out, on standard output: `text` for people, `data` for machines."""
        self.close()
        if self.mode == "json":
            self._json("result", **data)
        elif text:
            self._write(self._out, text)

    def close(self) -> None:
        """End the live line; safe to call twice."""
        self._finish()
        self._begin("", None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, name: str, total: int | None) -> None:
        self.name, self.total, self.done = name, total, 0
        self.shown: dict[str, Any] = {}
        self._started = self._clock()
        self._first = None
        self._printed = self._started

    def _finish(self) -> None:
        """The last state of a phase stays as a plain line."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        now = self._clock()
        worth = self.done > 0 or now - self._started >= 1.0
        if self.name and worth and self.mode in ("live", "plain") and not self.quiet:
            self._write(self._err, self._sentence(now, finished=True))

    def _refresh(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            self._live = Live(console=Console(file=self._err), refresh_per_second=8, transient=True)
            self._live.start()
        self._live.update(Text(printable(self._sentence(self._clock())), no_wrap=True, overflow="ellipsis"))

    def _sentence(self, now: float, finished: bool = False) -> str:
        count = (
            f"{self.done:,}/{self.total:,} {100 * self.done // max(1, self.total)}%"
            if self.total
            else f"{self.done:,}" * bool(self.done)
        )
        parts = [
            f"{self.name} {count}".strip(),
            *(show_value(key, self.shown[key]) for key in sorted(self.shown, key=_rank)),
        ]
        left = self._left(now)
        if finished:
            parts.append(duration(now - self._started))
        elif left is not None:
            parts.append(f"{duration(left)} left")
        return " | ".join(parts)

    def _left(self, now: float) -> float | None:
        """Seconds until the phase is done, at its mean pace after the first step (slow, or a jump ahead)."""
        if not self.total or not self.done or self._first is None:
            return None
        since, before = self._first if self.done > self._first[1] else (self._started, 0)
        return max(0.0, (now - since) / (self.done - before) * (self.total - self.done))

    def _json(self, event: str, /, **data: Any) -> None:
        text = json.dumps({"event": event, **data}, ensure_ascii=False, default=str)
        # JSON escapes only some of what a terminal obeys; inside its strings the rest can be escaped likewise.
        self._write(self._out, CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))

    def _write(self, stream: IO[str], text: str) -> None:
        if self.mode == "silent":
            return
        text = shown_text(text, stream)
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text.from_ansi(text), soft_wrap=True)
        else:
            print(text, file=stream, flush=True)


BITS = ("target_bits", "held_out", "text")
"""Figures on the live line that are bits, not points."""


def _rank(key: str) -> int:
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


def duration(seconds: float) -> str:
    """`8s`, `12m`, `1h 05m`."""
    if seconds < 90:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 90 else f"{minutes // 60}h {minutes % 60:02d}m"


def _flat(shown: dict[str, Any]) -> dict[str, Any]:
    """`(score, change)` as two JSON values."""
    out: dict[str, Any] = {}
    for key, value in shown.items():
        if isinstance(value, (tuple, list)) and len(value) == 2:
            out[key], out[f"{key}_delta"] = value
        else:
            out[key] = value
    return out


COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def paint(text: str, colour: str, stream: IO[str]) -> str:
    """`text` in a colour where the stream is a terminal that wants colours."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if _coloured(stream) else text


def _coloured(stream: IO[str]) -> bool:
    return not ("NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not stream.isatty())


OWN_COLOURS = re.compile(f"(\x1b\\[(?:0|{'|'.join(COLOURS.values())})m)")


def shown_text(text: str, stream: IO[str]) -> str:
    """Text as a terminal may have it: rows, names and other people's errors are shown, not obeyed.

    Only the colours of `paint` are left, where the stream has colours at all.
    """
    if not _coloured(stream):
        return printable(text)
    return "".join(part if n % 2 else printable(part) for n, part in enumerate(OWN_COLOURS.split(text)))
