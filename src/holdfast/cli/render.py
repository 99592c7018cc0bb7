"""What verbs print on standard output: a run, a comparison, a check, a reproduction."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.text import table, title, width
from holdfast.core.listeners import duration
from holdfast.core.progress import Progress
from holdfast.core.safe_text import printable
from holdfast.core.terminal import paint
from holdfast.errors import GateRefused
from holdfast.report import clipping, phrasing, ranking
from holdfast.report.arms import arm_lines
from holdfast.report.asked import unanswered_words, unended_words

if TYPE_CHECKING:
    from holdfast.recipe.loader import Resolved


COST_NAMES = {
    "seconds": "training", "sampling_seconds": "sampling", "measuring_seconds": "measuring", "memory_gib": "memory",
}  # fmt: skip


def resolution(resolved: Resolved, ui: Progress, notes: bool = True) -> None:
    """Say how the recipe was read: translated names (unless the callee says them), with `-v` every setting's origin."""
    for note in resolved.notes if notes else ():
        ui.line(note)
    if ui.verbose:
        from holdfast.recipe.loader import resolved_yaml

        ui.detail(resolved_yaml(resolved))


def summary(report: dict[str, Any], directory: Path | str | None) -> str:
    """A run or evaluation: the verdict, then every task."""
    paired = any(phrasing.known(task.get("delta")) for task in report["tasks"])
    rows = []
    for task in phrasing.ordered(report["tasks"]):
        unit, name = phrasing.unit_of(task), phrasing.label_of(task, report.get("recipe"))
        start = [task["role"], name, *([phrasing.figure(task.get("base"), unit)] if paired else [])]
        change = _task_change(task, unit) if paired else []
        rows.append([*start, phrasing.figure(task.get("tuned"), unit), *change, str(task["n"]), unit])
    middle = ("base", "tuned", "change", "95 % interval") if paired else ("score",)
    head = ("", "task", *middle, "n", "")
    if all(row[-1] == phrasing.POINTS for row in rows):
        rows, head = [row[:-1] for row in rows], head[:-1]
    parts = [phrasing.verdict(report)] if paired else []
    if rows:
        parts.append(table(rows, head, right=range(2, 4 + len(middle) - 1)))
    if lines := [*unended_words(report["tasks"]), *unanswered_words(report["tasks"])]:
        parts.append("\n".join(lines))
    if unread := [line for task in report["tasks"] for line in unreadable_answers(task, report.get("recipe"))]:
        parts.append("\n".join(unread))
    if report.get("probe"):
        parts.append("\n".join(f"probe: {line}" for line in phrasing.probe_words(report["probe"])))
    if report.get("stages"):
        parts.append(stages(report["stages"]))
    if phrasing.chose_a_step(report.get("training")):
        parts.append(f"{phrasing.steps(report['training'])}: the model, and what is said of it, are of that step")
    if clipping.cuts_deep(report):
        parts.append(clipping.clipped(report))
    gate = report.get("gate")
    if gate:
        said = "".join(f"\nnot certain: {text}" for text in gate.get("unsure") or [])
        parts.append(paint("gate: passed", "green", sys.stdout) + said if gate["passed"] else "gate: refused")
    return "\n\n".join(parts) + where(directory)


def unreadable_answers(task: dict[str, Any], recipe: Any = None) -> list[str]:
    """A line on the answers of a task that its judge could not read, if there are any."""
    counts = [(when, task.get(f"unreadable_{when}")) for when in ("base", "tuned")]
    if not any(n for _, n in counts):
        return []
    both = ", ".join(f"{when} {n}" if task.get("base") is not None else str(n) for when, n in counts if n is not None)
    name = phrasing.label_of(task, recipe)
    return [f"unreadable: {name}: {both} of {task['n']} answers, which judge {task.get('judge')} counts as not right"]


def _task_change(task: dict[str, Any], unit: str) -> list[str]:
    """Change (of bits also in per cent) and interval; where no answer flipped in an old report, that instead."""
    percent = f" ({phrasing.signed(task['percent'])} %)" if phrasing.known(task.get("percent")) else ""
    change = phrasing.signed(task["delta"], phrasing.digits(unit)) + percent
    flipped = not phrasing.known(task.get("low")) or task["low"] != task["high"] or not phrasing.in_points(task)
    return [change, phrasing.bracket(task.get("low"), task.get("high"), unit) if flipped else "none flipped"]


def _gained_and_lost(part: dict[str, Any]) -> list[str]:
    """Four cells: gain and loss of a run or stage, each with its interval. A loss is a positive number."""
    gain, loss = phrasing.change(part.get("gain")), phrasing.change(part.get("loss"))
    unit = phrasing.unit_of(gain)
    return [
        phrasing.signed(gain["delta"], phrasing.digits(unit)) if gain else phrasing.MISSING,
        phrasing.bracket(gain["low"], gain["high"], unit) if gain else "",
        phrasing.points(loss["delta"]) if loss else phrasing.MISSING,
        phrasing.bracket(loss["low"], loss["high"], sign=False) if loss else "",
    ]


GAINED_AND_LOST = ("target", "95 % interval", "lost elsewhere", "95 % interval")


def stages(rows: list[dict[str, Any]]) -> str:
    """What each stage of a run left, against the model before the first."""
    lines = []
    for row in rows:
        cells = [row["name"], row["method"], row["model"], phrasing.count(row["rows"]), phrasing.count(row["steps"])]
        lines.append([*cells, *_gained_and_lost(row)])
    head = ("after stage", "method", "from", "rows", "steps", *GAINED_AND_LOST)
    return table(lines, head, right=(3, 4, 5, 6, 7, 8))


def refuse_if_gated(report: dict[str, Any]) -> None:
    """Raise `GateRefused` if the recipe's gate said no."""
    gate = report.get("gate")
    if gate and not gate["passed"]:
        raise GateRefused("the gate refused this result: " + "; ".join(gate["reasons"]))


def gates(compare: dict[str, Any]) -> list[str]:
    """Which methods of a comparison passed the recipe's gate, and why the others did not."""
    runs = [run for run in compare["runs"] if run.get("gate")]
    passed = [run["method"] for run in runs if run["gate"]["passed"]]
    lines = [f"gate: refused {run['method']}, {'; '.join(run['gate']['reasons'])}" for run in runs]
    lines = [line for line, run in zip(lines, runs, strict=True) if not run["gate"]["passed"]]
    return [*([f"gate: passed by {', '.join(passed)}"] if passed else []), *lines]


def refuse_if_none_passed(compare: dict[str, Any]) -> None:
    """Raise `GateRefused` if the recipe's gate let no method through."""
    gates_there = [run["gate"] for run in compare["runs"] if run.get("gate")]
    if gates_there and not any(gate["passed"] for gate in gates_there):
        raise GateRefused("the gate refused every method")


def comparison(compare: dict[str, Any], directory: Path | str | None) -> str:
    """Every method with gain and loss, by gain; `*` marks the Pareto front."""
    rows = []
    for run in ranking.ranked(compare["runs"]):
        origins = run.get("origins") or {}
        total = sum(origins.values()) or 1
        rows.append([
            ("* " if run.get("pareto") else "  ") + run["method"],
            *_gained_and_lost(run),
            ", ".join(f"{100 * n / total:.0f} % {kind}" for kind, n in origins.items() if n),
            duration(phrasing.total_seconds(run.get("cost")) or 0),
        ])  # fmt: skip
    of = next((part["of"] for run in compare["runs"] if (part := phrasing.lost_part(run))), "tasks")
    lost = "agreement lost" if of == "probe" else GAINED_AND_LOST[2]
    head = ("  method", *GAINED_AND_LOST[:2], lost, GAINED_AND_LOST[3], "rows from", "time")
    seeds = max((len(run.get("seeds") or [0]) for run in compare["runs"]), default=1)
    front = "* on the gain/loss front; " if ranking.front_of(compare) else ""
    unit = phrasing.unit_of(next((run["gain"] for run in compare["runs"] if run.get("gain")), None))
    said = "in points" if unit == phrasing.POINTS else f"on the target in {unit} saved, elsewhere in points"
    foot = f"{front}change from the base {said}, {seeds} seed{'s' * (seeds > 1)} each"
    budget = f"budget: {compare['budget']}" if compare.get("budget") else ""
    early = [f"steps of {run['method']}: {text}" for run in compare["runs"] if (text := phrasing.steps_compared(run))]
    parts = [
        table(rows, head, right=(1, 2, 3, 4, 6)),
        *contrasts(compare),
        "\n".join(ranking.matched_words(compare)),
        "\n".join(part for part in (foot, budget, *early, *gates(compare)) if part),
        "\n".join(part for part in (ranking.verdict(compare), ranking.limits(compare)) if part),
        "\n".join(arm_lines(compare)),
        "\n".join(f"not to be judged here: {text}" for text in ranking.doubted(compare)),
    ]
    return "\n\n".join(part for part in parts if part) + where(directory)


def contrasts(compare: dict[str, Any]) -> list[str]:
    """The table of paired differences from the first method, where there is a second."""
    found = ranking.contrasts(compare)
    if not found:
        return []
    rows = [[one["method"], *_contrast(one["gain"]), *_contrast(one["loss"])] for one in found]
    part = ("95 % interval", "")
    head = (f"against {found[0]['than']}, paired", "gained more", *part, "lost more", *part)
    return [table(rows, head, right=(1, 2, 4, 5)), f"differences below {found[0]['margin']:g} points count as none"]


def _contrast(part: dict[str, Any] | None) -> list[str]:
    """Difference, interval, and what they say."""
    if part is None:
        return [phrasing.MISSING, "", ""]
    unit = " %" if part["unit"] == "%" else ""
    return [phrasing.signed(part["delta"]) + unit, phrasing.bracket(part["low"], part["high"]), part["reading"]]


def where(directory: Path | str | None) -> str:
    """The lines that say where the report is."""
    return f"\n\nreport: {Path(directory) / 'report.html'}" if directory else ""


def checked(found: dict[str, Any]) -> str:
    """What `holdfast.pipeline.check.check` found, for people."""
    if "stages" in found:
        return "\n\n\n".join(
            f"{title(f'Stage {number}: ' + stage['name'])} ({stage['what']})\n\n{checked(stage)}"
            for number, stage in enumerate(found["stages"], 1)
        )
    rows, plan, estimate = found["rows"], found.get("plan") or {}, found.get("estimate") or {}
    counts = [
        (key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
        for key, value in rows.items()
        if key != "dropped"
    ]
    dropped = [(f"dropped: {reason}", f"{n:,}") for reason, n in (rows.get("dropped") or {}).items() if n]
    parts = [title("Rows"), table([*counts, *dropped])]
    if found.get("measured"):
        parts += [
            title("Measured before and after"),
            table([measured_task(task) for task in found["measured"]], right=(2,)),
        ]
    parts += [title("Lengths in tokens"), histogram(found["lengths"])]
    parts += [title("What is trained (coloured, or between » and «)")]
    names = found.get("answers") or []
    several = any(name != "answer 1" for name in names)  # of a row with one answer its name says nothing
    parts += [(f"{names[i]}:\n" if several else "") + masked(pieces) for i, pieces in enumerate(found["examples"])]
    costs = [
        (COST_NAMES.get(key) or key.replace("_", " "), shown(key, value))
        for key, value in {**plan, **estimate}.items()
        if value is not None
    ]
    parts += [title("Plan"), table(costs)] if costs else []
    parts += judge_trial(found["judge"]) if found.get("judge") else []
    parts += [f"{paint('warning:', 'yellow', sys.stdout)} {text}" for text in found.get("warnings") or []]
    return "\n\n".join(parts)


def judge_trial(trial: dict[str, Any]) -> list[str]:
    """How the judge reads the first rows' own answers (`judges.trial.try_judge`)."""
    head = title("What the judge says of the rows' own answers")
    if "why" in trial:
        return [head, f"judge {trial['judge'] or 'none'}: not tried, {trial['why']}"]
    counts = [(outcome, str(trial[outcome])) for outcome in ("right", "wrong", "unreadable")]
    lines = [
        f"judge {trial['judge']}: {trial['right']} of {trial['rows']} answers pass against their own reference, "
        f"{trial['mistaken']} of {trial['compared']} against that of another row"
    ]
    if trial["skipped"]:
        lines.append(f"{trial['skipped']} rows not tried: no answer, or no reference that the judge can use")
    shown_rows = [(f"row {e['row']}", e["outcome"], e["answer"], e["reason"]) for e in trial["examples"]]
    examples = [table(shown_rows, ("", "", "answer", "why"), wrap=(2, 3))] if shown_rows else []
    return [head, "\n".join(lines), table(counts, right=(1,)), *examples]


def measured_task(task: dict[str, Any]) -> tuple[str, str, str, str]:
    """One task of the plan: what it is for, its name, how many questions and in what it is counted."""
    unit = "agreement with the base's answers, KL in bits per token" if task["kind"] == "probe" else task["unit"]
    return task["role"], task["name"], f"{task['n']:,}", unit


def shown(key: str, value: Any) -> str:
    """One figure of the plan in its unit."""
    if key == "seconds":
        return f"about {duration(value)}"
    if key.endswith("_seconds"):
        return f"at most {duration(value)}, with every answer as long as it may be"
    if key.endswith("gib"):
        return f"{value:.2f} GiB"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)


def histogram(lengths: dict[str, Any]) -> str:
    """Bars of row lengths: `edges` are n + 1 bounds, `counts` n numbers."""
    counts, edges = lengths["counts"], lengths["edges"]
    longest, room = max([*counts, 1]), max(10, width() - 30)
    rows = [
        (f"{low:,} to {high - 1:,}", f"{n:,}", "█" * round(room * n / longest) or "▏" * bool(n))
        for low, high, n in zip(edges, edges[1:], counts, strict=False)
    ]
    return table(rows, right=(0, 1))


def masked(pieces: list[dict[str, Any]]) -> str:
    """A rendered row: trained pieces coloured, or between marks where there is no colour."""
    coloured = paint("x", "green", sys.stdout) != "x"
    shown = [(printable(piece["text"]), piece["trained"]) for piece in pieces]  # a row paints nothing itself
    texts = [
        (paint(text, "green", sys.stdout) if coloured else f"»{text}«") if trained else text for text, trained in shown
    ]
    return "".join(texts).rstrip("\n")


def reproduction(found: dict[str, Any]) -> str:
    """The paper's numbers beside ours: points, or of a study whatever it measures."""
    bracket = phrasing.bracket if found["points"] else _bracket
    rows = [
        (row["what"], str(row["paper"]), str(row["ours"]), bracket(row.get("low"), row.get("high")))
        for row in found["rows"]
    ]
    said = {"held": ("held here", "green"), "refuted": ("was refuted here", "yellow")}
    held = paint(*said.get(found["outcome"], ("cannot be told here", "yellow")), sys.stdout)
    checks = [(check["what"], *_checked(check, found["points"])) for check in found["checks"]]
    parts = [
        f"{title(found['name'])}: {found['claim']}",
        table(rows, ("", "paper", "ours", "95 % interval"), right=(1, 2, 3)),
        table(checks, ("part of the claim", "difference", "95 % interval", "must be above", ""), right=(1, 2, 3)),
        *(["\n".join(f"cannot be told: {text}" for text in reasons)] if (reasons := _reasons(found)) else []),
    ]
    return "\n\n".join([*parts, f"The claim {held}. {found.get('verdict', '')}".rstrip()])


def _checked(check: dict[str, Any], in_points: bool) -> tuple[str, str, str, str]:
    """Difference, interval, the line it must be above, and the outcome of a part of a claim."""
    line = check["margin"] if check["by"] == "more" else -check["margin"]
    if in_points:
        span = phrasing.bracket(check["low"], check["high"])
        return phrasing.signed(check["delta"]), span, phrasing.signed(line), check["outcome"]
    return f"{check['delta']:.3g}", _bracket(check["low"], check["high"]), f"{line:g}", check["outcome"]


def _reasons(found: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(reason for check in found["checks"] for reason in check["reasons"]))


def _bracket(low: float, high: float) -> str:
    return f"[{low:.3g}, {high:.3g}]"


def skills(found: dict[str, Any]) -> str:
    """What a laboratory model knows."""
    rows = [
        (skill["name"], phrasing.points(skill["accuracy"]), str(skill["n"]), skill.get("about", ""))
        for skill in found["skills"]
    ]
    head = ("skill", "right, %", "n", "what")
    return (
        f"{title(found['model'])}: {found['parameters']:,} parameters\n\n{table(rows, head, right=(1, 2), wrap=(3,))}"
    )
