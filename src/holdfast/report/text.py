"""The result on the terminal: tables of at most 100 columns, words and numbers in ASCII so that any log takes them."""

from __future__ import annotations

import io
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from holdfast.report import words

STYLES = {"up": "blue", "down": "red", "flat": ""}
_ASCII = str.maketrans({words.MINUS: "-", words.MISSING: "-", "→": "->"})


def _plain(text: str) -> str:
    return text.translate(_ASCII)


def _table(*columns: str, names: int = 1) -> Table:
    """A table whose first `names` columns are words and whose others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(
            column,
            justify="left" if i < names else "right",
            overflow="fold" if i < names else "ellipsis",
            no_wrap=i >= names,
        )
    return table


def _change(part: dict[str, Any] | None) -> Text:
    """`+12.3 [+8.1, +16.4]`, coloured where the interval leaves out 0."""
    if part is None:
        return Text("-", style="dim")
    low, high = part.get("low"), part.get("high")
    unit = words.unit_of(part)
    text = Text(_plain(words.signed(part["delta"], words.digits(unit))), style=STYLES[words.way(part)])
    return text.append(_plain(f" {words.bracket(low, high, unit)}".rstrip()), style="dim")


def _mix(origins: dict[str, float] | None, *, short: bool = False) -> str:
    """Who wrote the rows, in percent: `63 % model, 22 % paraphrase`, or short by first letters: `m63 p22`."""
    origins = {k: v for k, v in (origins or {}).items() if v}
    total = sum(origins.values())
    largest = sorted(origins.items(), key=lambda o: -o[1])
    if short:
        return " ".join(f"{name[0]}{100 * value / total:.0f}" for name, value in largest[:4]) or "-"
    return ", ".join(f"{words.percent(value / total)} {name}" for name, value in largest) or "-"


def _arrow(before: float | None, after: float | None, unit: str = words.POINTS) -> str:
    return _plain(f"{words.figure(before, unit)} -> {words.figure(after, unit)}")


def _summary(report: dict[str, Any]) -> list[RenderableType]:
    """The lines under the table: means, rows, time, gate."""
    tasks = report.get("tasks") or []
    lines: list[RenderableType] = []
    for role, title, part in (
        ("target", "target", words.change(report.get("gain"))),
        ("keep", "kept, mean", words.change(report.get("loss"), lost=True)),
    ):
        if part:
            before, after = (words.mean_score(tasks, role, f) for f in ("base", "tuned"))
            arrow = _arrow(before, after, words.unit_of(part))
            lines.append(Text(f"{title:<12}{arrow}  ", style="bold").append_text(_change(part)))
    counts = (report.get("curation") or {}).get("counts")
    if counts:
        lines.append(Text(f"{'rows':<12}{_plain(words.count(sum(counts.values())))}: {_mix(counts)}"))
    seconds = words.total_seconds(report.get("cost"))
    if words.known(seconds):
        lines.append(Text(f"{'time':<12}{words.duration(seconds)}"))
    gate = report.get("gate")
    if gate:
        said = "passed" if gate["passed"] else "refused: " + "; ".join(gate.get("reasons") or ["no reason given"])
        lines.append(Text(f"{'gate':<12}{said}", style="" if gate["passed"] else "bold red"))
    return lines


def run_table(report: dict[str, Any]) -> RenderableType:
    """The result of one run: the verdict, a line per task, then means, rows, time and gate."""
    table = _table("task", "n", "base", "tuned", "change [95 %]", "p", "won/lost")
    for task in words.ordered(report.get("tasks") or []):
        style = "bold" if task.get("role") == "target" else ""
        flips = f"{task['won']}/{task['lost']}" if words.known(task.get("won")) else "-"
        unit = words.unit_of(task)
        numbers = [words.count(task.get("n")), *(words.figure(task.get(when), unit) for when in ("base", "tuned"))]
        change = _change(task if words.known(task.get("delta")) else None)
        cells: list[RenderableType] = [*map(_plain, numbers), change, _plain(words.pvalue(task.get("p"))), flips]
        table.add_row(Text(task["name"], style=style), *cells)
    parts: list[RenderableType] = [Text(_plain(words.verdict(report)), style="bold"), Text("")]
    if table.row_count:
        parts += [table, Text("")]
    return Group(*parts, *_summary(report))


def _worst(run: dict[str, Any], kept: set[str]) -> str:
    """The kept task that fell most under this method."""
    fell = [
        (t["delta"], name)
        for name, t in (run.get("tasks") or {}).items()
        if name in kept and words.known(t.get("delta"))
    ]
    delta, name = min(fell, default=(0.0, ""))
    return _plain(f"{name} {words.signed(delta)}") if delta < 0 else "-"


def compare_table(compare: dict[str, Any]) -> RenderableType:
    """All methods of a comparison, the base first, then by gain; `*` marks those on the gain/loss front."""
    tasks = compare.get("tasks") or []
    table = _table(
        "method", "worst kept task", "rows by", "target", "gain [95 %]", "kept", "change [95 %]", "time", names=3
    )
    unit = words.unit_of(next((run["gain"] for run in compare.get("runs") or [] if run.get("gain")), None))
    units = {"target": unit, "keep": words.POINTS}
    base = [_plain(words.figure(words.mean_score(tasks, role, "base"), units[role])) for role in units]
    table.add_row("base", "", "", base[0], "", base[1], "", "", style="dim")
    kept = {t["name"] for t in tasks if t.get("role") not in ("target", "watch") and words.in_points(t)}
    runs = sorted(
        compare.get("runs") or [], key=lambda r: -(words.change(r.get("gain")) or {"delta": float("-inf")})["delta"]
    )
    for run in runs:
        gain, loss = words.change(run.get("gain")), words.change(run.get("loss"), lost=True)
        table.add_row(
            Text(run["method"] + ("*" if run.get("pareto") else ""), style="bold" if run.get("pareto") else ""),
            Text(_worst(run, kept)),
            Text(_mix(run.get("origins"), short=True)),
            _plain(words.figure(run.get("target"), unit)),
            _change(gain),
            _plain(words.points(run.get("keep"))),
            _change(loss),
            _short_time(words.total_seconds(run.get("cost"))),
        )
    note = "* on the front: no other method gains more without losing more. kept: mean of the kept tasks."
    kinds = dict.fromkeys(name for run in runs for name, value in (run.get("origins") or {}).items() if value)
    if kinds:
        note += f"\nrows by: percent written by {', '.join(f'{kind[0]} {kind}' for kind in kinds)}."
    return Group(Text(_plain(words.compare_verdict(compare)), style="bold"), Text(""), table, Text(note, style="dim"))


def _short_time(seconds: float | None) -> str:
    """`8m03s`, `1h04m`: a duration that leaves room for the rest."""
    return _plain(words.duration(seconds)).replace(" min", "m").replace(" h", "h").replace(" s", "s").replace(" ", "")


def as_text(renderable: RenderableType, width: int = 100) -> str:
    """What a renderable looks like in a log: no colour, no control characters, no spaces at line ends."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(renderable)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"
