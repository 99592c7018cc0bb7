"""What verbs print on standard output: a run, a comparison, a check, a reproduction."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.text import format_table, format_title, terminal_width
from holdfast.core.listeners import format_duration
from holdfast.core.progress import Progress
from holdfast.core.safe_text import make_printable
from holdfast.core.terminal import paint_text
from holdfast.errors import GateRefused
from holdfast.report import claim_words, clipping, phrasing, ranking
from holdfast.report.arms import arm_lines
from holdfast.report.asked import answering_words, unanswered_words, unended_words

if TYPE_CHECKING:
    from holdfast.recipe.loader import ResolvedRecipe


COST_NAMES = {
    "seconds": "training", "sampling_seconds": "sampling", "measuring_seconds": "measuring", "memory_gib": "memory",
    "micro_batch": "micro-batch",
}  # fmt: skip
IN_WORDS = {
    "layout": "attention", "micro_tokens": "micro_batch", "head_rows": "head", "memory_gib": "memory",
    "memory_parts": "memory",
}  # fmt: skip
"""Entries of a plan that are not shown, since the words of another one say the same."""


def print_recipe_notes(resolved_recipe: ResolvedRecipe, ui: Progress, notes: bool = True) -> None:
    """Say how the recipe was read: translated names (unless the callee says them), with `-v` every setting's origin."""
    for note in resolved_recipe.notes if notes else ():
        ui.write_line(note)
    if ui.verbose:
        from holdfast.recipe.loader import format_resolved_yaml

        ui.write_detail(format_resolved_yaml(resolved_recipe))


def format_report(report: dict[str, Any], directory: Path | str | None) -> str:
    """A run or evaluation: the verdict, then every task."""
    is_paired = any(phrasing.is_known(task.get("delta")) for task in report["tasks"])
    has_interval = any(phrasing.is_known(task.get("low")) for task in report["tasks"])
    rows = []
    for task in phrasing.order_tasks(report["tasks"]):
        unit, name = phrasing.unit_of(task), phrasing.label_of(task, report.get("recipe"))
        start = [task["role"], name, *([phrasing.format_figure(task.get("base"), unit)] if is_paired else [])]
        change = _change_cells(task, unit) if is_paired else [_score_bracket(task, unit)] if has_interval else []
        rows.append([*start, phrasing.format_figure(task.get("tuned"), unit), *change, str(task["n"]), unit])
    middle = (
        ("base", "tuned", "change", "95 % interval")
        if is_paired
        else ("score", *(("95 % interval",) if has_interval else ()))
    )
    head = ("", "task", *middle, "n", "")
    if all(row[-1] == phrasing.POINTS for row in rows):
        rows, head = [row[:-1] for row in rows], head[:-1]
    parts = [phrasing.describe_result(report)] if is_paired else []
    if rows:
        parts.append(format_table(rows, head, right=range(2, 4 + len(middle) - 1)))
    tasks = report["tasks"]
    if lines := [*unended_words(tasks), *unanswered_words(tasks), *answering_words(tasks)]:
        parts.append("\n".join(lines))
    if unread := [line for task in report["tasks"] for line in describe_unreadable_answers(task, report.get("recipe"))]:
        parts.append("\n".join(unread))
    if report.get("probe"):
        parts.append("\n".join(f"probe: {line}" for line in phrasing.probe_words(report["probe"])))
    if report.get("stages"):
        parts.append(format_stages(report["stages"]))
    if phrasing.chose_a_step(report.get("training")):
        parts.append(
            f"{phrasing.format_steps(report['training'])}: the model, and what is said of it, are of that step"
        )
    if clipping.cuts_deep(report):
        parts.append(clipping.describe_clipping(report))
    gate = report.get("gate")
    if gate:
        unsure_text = "".join(f"\nnot certain: {text}" for text in gate.get("unsure") or [])
        parts.append(
            paint_text("gate: passed", "green", sys.stdout) + unsure_text if gate["passed"] else "gate: refused"
        )
    return "\n\n".join(parts) + format_report_path(directory)


def describe_unreadable_answers(task: dict[str, Any], recipe: Any = None) -> list[str]:
    """A line on the answers of a task that its judge could not read, if there are any."""
    counts = [(when, task.get(f"unreadable_{when}")) for when in ("base", "tuned")]
    if not any(n for _, n in counts):
        return []
    both = ", ".join(f"{when} {n}" if task.get("base") is not None else str(n) for when, n in counts if n is not None)
    name = phrasing.label_of(task, recipe)
    return [f"unreadable: {name}: {both} of {task['n']} answers, which judge {task.get('judge')} counts as not right"]


def _score_bracket(task: dict[str, Any], unit: str) -> str:
    """The interval of a score that is compared with nothing."""
    return phrasing.format_bracket(task.get("low"), task.get("high"), unit, sign=False)


def _change_cells(task: dict[str, Any], unit: str) -> list[str]:
    """Change (of bits also in per cent) and interval; where no answer flipped in an old report, that instead."""
    percent = f" ({phrasing.format_signed(task['percent'])} %)" if phrasing.is_known(task.get("percent")) else ""
    change = phrasing.format_signed(task["delta"], phrasing.decimals_of(unit)) + percent
    has_flips = not phrasing.is_known(task.get("low")) or task["low"] != task["high"] or not phrasing.in_points(task)
    return [change, phrasing.format_bracket(task.get("low"), task.get("high"), unit) if has_flips else "none flipped"]


def _gain_and_loss_cells(part: dict[str, Any]) -> list[str]:
    """Four cells: gain and loss of a run or stage, each with its interval. A loss is a positive number."""
    gain, loss = phrasing.change_of(part.get("gain")), phrasing.change_of(part.get("loss"))
    unit = phrasing.unit_of(gain)
    return [
        phrasing.format_signed(gain["delta"], phrasing.decimals_of(unit)) if gain else phrasing.MISSING,
        phrasing.format_bracket(gain["low"], gain["high"], unit) if gain else "",
        phrasing.format_points(loss["delta"]) if loss else phrasing.MISSING,
        phrasing.format_bracket(loss["low"], loss["high"], sign=False) if loss else "",
    ]


GAIN_AND_LOSS_HEAD = ("target", "95 % interval", "lost elsewhere", "95 % interval")


def format_stages(rows: list[dict[str, Any]]) -> str:
    """What each stage of a run left, against the model before the first."""
    lines = []
    for row in rows:
        cells = [
            row["name"],
            row["method"],
            row["model"],
            phrasing.format_count(row["rows"]),
            phrasing.format_count(row["steps"]),
        ]
        lines.append([*cells, *_gain_and_loss_cells(row)])
    head = ("after stage", "method", "from", "rows", "steps", *GAIN_AND_LOSS_HEAD)
    return format_table(lines, head, right=(3, 4, 5, 6, 7, 8))


def refuse_if_gated(report: dict[str, Any]) -> None:
    """Raise `GateRefused` if the recipe's gate said no."""
    gate = report.get("gate")
    if gate and not gate["passed"]:
        raise GateRefused("the gate refused this result: " + "; ".join(gate["reasons"]))


def format_gates(compare: dict[str, Any]) -> list[str]:
    """Which methods of a comparison passed the recipe's gate, and why the others did not."""
    runs = [run for run in compare["runs"] if run.get("gate")]
    passing_methods = [run["method"] for run in runs if run["gate"]["passed"]]
    lines = [f"gate: refused {run['method']}, {'; '.join(run['gate']['reasons'])}" for run in runs]
    lines = [line for line, run in zip(lines, runs, strict=True) if not run["gate"]["passed"]]
    return [*([f"gate: passed by {', '.join(passing_methods)}"] if passing_methods else []), *lines]


def refuse_if_none_passed(compare: dict[str, Any]) -> None:
    """Raise `GateRefused` if the recipe's gate let no method through."""
    gates_there = [run["gate"] for run in compare["runs"] if run.get("gate")]
    if gates_there and not any(gate["passed"] for gate in gates_there):
        raise GateRefused("the gate refused every method")


def format_comparison(compare: dict[str, Any], directory: Path | str | None) -> str:
    """Every method with gain and loss, by gain; `*` marks the Pareto front.

    Where answers are made of more than weights, also forward passes a question and the seconds of all answers.
    """
    rows, shows_answers = [], any(run.get("inference") for run in compare["runs"])
    for run in ranking.rank_methods(compare["runs"]):
        origins = run.get("origins") or {}
        total = sum(origins.values()) or 1
        rows.append([
            ("* " if run.get("pareto") else "  ") + run["method"],
            *_gain_and_loss_cells(run),
            ", ".join(f"{100 * n / total:.0f} % {kind}" for kind, n in origins.items() if n),
            format_duration(phrasing.total_seconds(run.get("cost")) or 0),
            *(_answer_cost_cells(run) if shows_answers else ()),
        ])  # fmt: skip
    of = next((part["of"] for run in compare["runs"] if (part := phrasing.lost_part(run))), "tasks")
    loss_head = "agreement lost" if of == "probe" else GAIN_AND_LOSS_HEAD[2]
    head: tuple[str, ...] = ("  method", *GAIN_AND_LOSS_HEAD[:2], loss_head, GAIN_AND_LOSS_HEAD[3], "rows from", "time")
    head = (*head, "passes", "answers") if shows_answers else head
    seeds = max((len(run.get("seeds") or [0]) for run in compare["runs"]), default=1)
    front = "* on the gain/loss front; " if ranking.front_of(compare) else ""
    unit = phrasing.unit_of(next((run["gain"] for run in compare["runs"] if run.get("gain")), None))
    unit_text = "in points" if unit == phrasing.POINTS else f"on the target in {unit} saved, elsewhere in points"
    foot = f"{front}change from the base {unit_text}, {seeds} seed{'s' * (seeds > 1)} each"
    budget = f"budget: {compare['budget']}" if compare.get("budget") else ""
    early = [
        f"steps of {run['method']}: {text}" for run in compare["runs"] if (text := phrasing.format_steps_compared(run))
    ]
    parts = [
        format_table(rows, head, right=(1, 2, 3, 4, 6, 7, 8) if shows_answers else (1, 2, 3, 4, 6)),
        *format_contrasts(compare),
        "\n".join(ranking.matched_words(compare)),
        "\n".join(part for part in (foot, budget, *early, *format_gates(compare)) if part),
        "\n".join(part for part in (ranking.describe_ranking(compare), ranking.describe_limits(compare)) if part),
        "\n".join(arm_lines(compare)),
        _format_sizes(compare),
        "\n".join(f"not to be judged here: {text}" for text in ranking.describe_doubts(compare)),
    ]
    return "\n\n".join(part for part in parts if part) + format_report_path(directory)


def _answer_cost_cells(run: dict[str, Any]) -> tuple[str, str]:
    """Forward passes a question, and the time of measuring the model as it answers."""
    passes, seconds = phrasing.passes_per_question(run.get("cost")), (run.get("cost") or {}).get("answer_seconds")
    return "-" if passes is None else f"{passes:.1f}", format_duration(seconds) if phrasing.is_known(seconds) else "-"


def _format_sizes(compare: dict[str, Any]) -> str:
    """What trains and what it took, where the methods differ in what trains."""
    runs = [run for run in ranking.rank_methods(compare["runs"]) if run.get("trainable")]
    if len({run["trainable"] for run in runs}) < 2:
        return ""
    rows = [
        [run["method"], f"{run['trainable']:,}", f"{(run.get('cost') or {}).get('peak_memory_gib') or 0:.2f} GiB"]
        for run in runs
    ]
    return format_table(rows, ("method", "weights that train", "peak memory"), right=(1, 2))


def format_contrasts(compare: dict[str, Any]) -> list[str]:
    """The table of paired differences from the first method, where there is a second."""
    differences = ranking.build_contrasts(compare)
    if not differences:
        return []
    rows = [[one["method"], *_contrast_cells(one["gain"]), *_contrast_cells(one["loss"])] for one in differences]
    part = ("95 % interval", "")
    head = (f"against {differences[0]['than']}, paired", "gained more", *part, "lost more", *part)
    return [
        format_table(rows, head, right=(1, 2, 4, 5)),
        f"differences below {differences[0]['margin']:g} points count as none",
    ]


def _contrast_cells(part: dict[str, Any] | None) -> list[str]:
    """Difference, interval, and what they say."""
    if part is None:
        return [phrasing.MISSING, "", ""]
    unit = " %" if part["unit"] == "%" else ""
    return [
        phrasing.format_signed(part["delta"]) + unit,
        phrasing.format_bracket(part["low"], part["high"]),
        part["reading"],
    ]


def format_report_path(directory: Path | str | None) -> str:
    """The lines that say where the report is."""
    return f"\n\nreport: {Path(directory) / 'report.html'}" if directory else ""


def format_check(findings: dict[str, Any]) -> str:
    """What `holdfast.pipeline.check.check` found, for people."""
    if "stages" in findings:
        return "\n\n\n".join(
            f"{format_title(f'Stage {number}: ' + stage['name'])} ({stage['what']})\n\n{format_check(stage)}"
            for number, stage in enumerate(findings["stages"], 1)
        )
    rows, plan, estimate = findings["rows"], findings.get("plan") or {}, findings.get("estimate") or {}
    counts = [
        (key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
        for key, value in rows.items()
        if key != "dropped"
    ]
    drop_rows = [(f"dropped: {reason}", f"{n:,}") for reason, n in (rows.get("dropped") or {}).items() if n]
    parts = [format_title("Rows"), format_table([*counts, *drop_rows])]
    if findings.get("measured"):
        parts += [
            format_title("Measured before and after"),
            format_table([measurement_cells(task) for task in findings["measured"]], right=(2,)),
        ]
    parts += [format_title("Lengths in tokens"), format_histogram(findings["lengths"])]
    parts += [format_title("What is trained (coloured, or between » and «)")]
    names = findings.get("answers") or []
    several = any(name != "answer 1" for name in names)  # of a row with one answer its name says nothing
    parts += [
        (f"{names[i]}:\n" if several else "") + format_masked_row(pieces)
        for i, pieces in enumerate(findings["examples"])
    ]
    costs = {**plan, **estimate}
    cost_rows = [
        (COST_NAMES.get(key) or key.replace("_", " "), format_plan_figure(key, value))
        for key, value in costs.items()
        if value is not None and IN_WORDS.get(key) not in costs
    ]
    parts += [format_title("Plan"), format_table(cost_rows, wrap=(1,))] if costs else []
    parts += format_judge_trial(findings["judge"]) if findings.get("judge") else []
    parts += [f"{paint_text('warning:', 'yellow', sys.stdout)} {text}" for text in findings.get("warnings") or []]
    return "\n\n".join(parts)


def format_judge_trial(trial: dict[str, Any]) -> list[str]:
    """How the judge reads the first rows' own answers (`judges.trial.try_judge`)."""
    head = format_title("What the judge says of the rows' own answers")
    if "why" in trial:
        return [head, f"judge {trial['judge'] or 'none'}: not tried, {trial['why']}"]
    counts = [(outcome, str(trial[outcome])) for outcome in ("right", "wrong", "unreadable")]
    lines = [
        f"judge {trial['judge']}: {trial['right']} of {trial['rows']} answers pass against their own reference, "
        f"{trial['mistaken']} of {trial['compared']} against that of another row"
    ]
    if trial["skipped"]:
        lines.append(f"{trial['skipped']} rows not tried: no answer, or no reference that the judge can use")
    example_rows = [(f"row {e['row']}", e["outcome"], e["answer"], e["reason"]) for e in trial["examples"]]
    examples = [format_table(example_rows, ("", "", "answer", "why"), wrap=(2, 3))] if example_rows else []
    return [head, "\n".join(lines), format_table(counts, right=(1,)), *examples]


def measurement_cells(task: dict[str, Any]) -> tuple[str, str, str, str]:
    """One task of the plan: what it is for, its name, how many questions and in what it is counted."""
    unit = "agreement with the base's answers, KL in bits per token" if task["kind"] == "probe" else task["unit"]
    return task["role"], task["name"], f"{task['n']:,}", unit


def format_plan_figure(key: str, value: Any) -> str:
    """One figure of the plan in its unit."""
    if key == "seconds":
        return f"about {format_duration(value)}"
    if key.endswith("_seconds"):
        return f"at most {format_duration(value)}, with every answer as long as it may be"
    if key.endswith("gib"):
        return f"{value:.2f} GiB"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)


def format_histogram(lengths: dict[str, Any]) -> str:
    """Bars of row lengths: `edges` are n + 1 bounds, `counts` n numbers."""
    counts, edges = lengths["counts"], lengths["edges"]
    longest, room = max([*counts, 1]), max(10, terminal_width() - 30)
    rows = [
        (f"{low:,} to {high - 1:,}", f"{n:,}", draw_bar(n, longest, room))
        for low, high, n in zip(edges, edges[1:], counts, strict=False)
    ]
    return format_table(rows, right=(0, 1))


def format_masked_row(pieces: list[dict[str, Any]]) -> str:
    """A rendered row: trained pieces coloured, or between marks where there is no colour."""
    has_colour = paint_text("x", "green", sys.stdout) != "x"
    clean_pieces = [
        (make_printable(piece["text"]), piece["trained"]) for piece in pieces
    ]  # a row paints nothing itself
    texts = [
        (paint_text(text, "green", sys.stdout) if has_colour else f"»{text}«") if is_trained else text
        for text, is_trained in clean_pieces
    ]
    return "".join(texts).rstrip("\n")


def format_reproduction(result: dict[str, Any]) -> str:
    """The paper's numbers beside ours: points, or of a study whatever it measures."""
    rows = [
        (
            row["what"], str(row["paper"]), str(row["ours"]),
            claim_words.format_interval(row.get("low"), row.get("high"), result["points"]),
        )
        for row in result["rows"]
    ]  # fmt: skip
    colour = "green" if result["outcome"] == "held" else "yellow"
    outcome = paint_text(claim_words.OUTCOMES.get(result["outcome"], claim_words.UNCLEAR), colour, sys.stdout)
    checks = [
        (check["what"], *claim_words.format_check(check, result["points"]), check["outcome"])
        for check in result["checks"]
    ]
    reasons = claim_words.unclear_reasons(result)
    parts = [
        f"{format_title(result['name'])}: {result['claim']}",
        format_table(rows, ("", "paper", "ours", "95 % interval"), right=(1, 2, 3)),
        format_table(
            checks, ("part of the claim", "difference", "95 % interval", "must be above", ""), right=(1, 2, 3)
        ),
        *(["\n".join(f"cannot be told: {text}" for text in reasons)] if reasons else []),
    ]
    return "\n\n".join([*parts, f"The claim {outcome}. {result.get('verdict', '')}".rstrip()])


def format_skills(report: dict[str, Any]) -> str:
    """What a laboratory model knows."""
    rows = [
        (skill["name"], phrasing.format_points(skill["accuracy"]), str(skill["n"]), skill.get("about", ""))
        for skill in report["skills"]
    ]
    head = ("skill", "right, %", "n", "what")
    table = format_table(rows, head, right=(1, 2), wrap=(3,))
    histograms = [format_solve_rates(skill) for skill in report["skills"] if "solved" in skill]
    return "\n\n".join([f"{format_title(report['model'])}: {report['parameters']:,} parameters", table, *histograms])


def format_solve_rates(skill: dict[str, Any]) -> str:
    """A histogram of how many of its sampled answers to each question are right."""
    counts = skill["solved"]
    most, total = max(counts), sum(counts)
    bars = [(f"{right} of {len(counts) - 1}", str(count), draw_bar(count, most)) for right, count in enumerate(counts)]
    title = f"{skill['name']}: {skill['between']:.0f} % of {total} questions are solved in 10 to 90 % of the samples"
    return f"{title}\n{format_table(bars, ('right', 'questions', ''), right=(0, 1))}"


def draw_bar(count: float, longest: float, room: int = 40) -> str:
    """A bar in proportion; the thinnest for what is little but not nothing."""
    return "█" * round(room * count / longest) or "▏" * bool(count)
