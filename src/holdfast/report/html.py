"""The report as one self-contained HTML page: no script, no font, no picture fetched; opens offline and prints.

The pages are Jinja2 templates with autoescape on; plots and templates build on `Markup`, so what a model wrote is
always text. A content policy in the page forbids scripts and loads besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast.core.files import replace_file
from holdfast.recipe.shorthand import LAB_MODELS
from holdfast.report import asked, clipping, curve_plots, phrasing, plots, ranking, section_plots
from holdfast.report.matched_plot import matched_plane
from holdfast.report.schema import (
    CostReport,
    CurationReport,
    CurvePoint,
    GateReport,
    ModelReport,
    ReportPart,
    RunReport,
    StageReport,
    TaskReport,
    TrainingReport,
    complete_part,
)

MOST_FLIPS = 100
"""Flipped answers shown per task; the item files of the run hold all."""

_FIRST = 3  # flipped answers shown before the rest is folded
_LONG = 700  # characters of an answer shown before it is folded
_LINE = 110  # characters of a question that stand for it in a list
_PLAIN = 3  # examples of rows that are trained on as they came
_FINGERPRINT = 12  # digits of a fingerprint that tell models apart; the rest is under the mouse


_TERMS = {
    "p": "Exact McNemar test on the answers that flipped: how often chance alone would flip them this unevenly.",
    "flips": "Questions wrong before and right after, and the other way round.",
    "noise": "How far two measurements of the same model differ when each draws its own questions; what an unpaired "
    "comparison could not have seen.",
    "stopped": "Share of answers the model ended by itself, base \u2192 tuned.",
    "unreadable": "Answers that the judge could not read, base \u2192 tuned; they count as not right.",
    "length": "Mean tokens per answer, base \u2192 tuned.",
}
_WORDS = {
    "points": phrasing.format_points,
    "signed": phrasing.format_signed,
    "span": phrasing.format_interval,
    "bracket": phrasing.format_bracket,
    "direction": phrasing.interval_direction,
    "way": phrasing.part_direction,
    "figure": phrasing.format_figure,
    "digits": phrasing.decimals_of,
    "unit_of": phrasing.unit_of,
    "in_points": phrasing.in_points,
    "pvalue": phrasing.format_pvalue,
    "percent": phrasing.format_percent,
    "count": phrasing.format_count,
    "duration": phrasing.format_duration,
    "epochs": phrasing.format_epochs,
    "sentence": phrasing.make_sentence,
    "probe_sentences": phrasing.probe_sentences,
    "steps": phrasing.format_steps,
    "chose_a_step": phrasing.chose_a_step,
}
"""What the templates call the functions that put numbers into words, as filters and as functions."""


@lru_cache(maxsize=1)
def build_environment() -> Environment:
    """What all pages are rendered with."""
    env = Environment(
        loader=PackageLoader("holdfast.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= _WORDS
    env.globals |= _WORDS
    env.globals |= {
        "known": phrasing.is_known,
        "asking": asked,
        "DASH": phrasing.MISSING,
        "LONG": _LONG,
        "FIRST": _FIRST,
        "FINGERPRINT": _FINGERPRINT,
        "TERMS": _TERMS,
        "origin_class": plots.origin_class,
    }
    return env


def _dump_yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100) if value else ""


def _complete_model(report: Mapping[str, Any]) -> dict[str, Any]:
    """The base model; of a path on somebody's disk the last part is its `short` name."""
    model = complete_part(report.get("model"), ModelReport)
    name = str(model["name"] or "")
    return {**model, "short": PurePath(name).name if name.startswith(("/", "~", ".")) else name}


def _format_time(timestamp: str) -> str:
    """`2025-11-21T14:32:05Z` as `2025-11-21 14:32`; anything else as it is."""
    text = str(timestamp or "")
    return text[:16].replace("T", " ") if len(text) >= 16 and text[10] == "T" else text


_CURVES = ("target", "keep", "text", "held_out")
_PARTS: dict[str, type[ReportPart]] = {
    "curation": CurationReport,
    "training": TrainingReport,
    "cost": CostReport,
    "gate": GateReport,
    "model": ModelReport,
}


def _fill_missing(part: Mapping[str, Any] | None, keys: Sequence[str]) -> dict[str, Any]:
    """A row or an answer with None for what it does not hold."""
    return {**dict.fromkeys(keys), **(part or {})}


def _complete_report(report: dict[str, Any]) -> dict[str, Any]:
    """The report with every part and key the template asks for; parts that are not there at all stay None."""
    parts = {name: complete_part(report[name], kind) if report.get(name) else None for name, kind in _PARTS.items()}
    tasks = [
        complete_part(task, TaskReport)
        | {"label": phrasing.label_of(task, report.get("recipe")), "about": _describe_skill(task, report)}
        for task in phrasing.order_tasks(report.get("tasks") or [])
    ]
    top = complete_part(report, RunReport)
    top["stages"] = [complete_part(stage, StageReport) for stage in report.get("stages") or []]
    curves = [complete_part(c, CurvePoint) for c in report.get("curves") or []]
    return {
        **top,
        **parts,
        "tasks": tasks,
        "curves": curves,
        "model": parts["model"] or complete_part(None, ModelReport),
    }


def _describe_skill(task: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """What a laboratory skill asks for; other tasks are known to those who named them."""
    recipe, model = report.get("recipe") or {}, report.get("model") or {}
    if not {recipe.get("model"), model.get("name")} & {*LAB_MODELS}:
        return ""
    from holdfast.skills import describe_skill

    return describe_skill(task["name"])


def _select_examples(curation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The curated rows to show, each with a `line` that stands for it, and of rows as they came only a few."""
    examples, plain = [], 0
    for row in (curation or {}).get("examples") or []:
        example = _fill_missing(row, ("prompt", "answer", "rejected", "gold", "origin", "reason", "attempts"))
        example["attempts"] = [
            _fill_missing(a, ("kind", "response", "passed", "reason")) for a in example["attempts"] or []
        ]
        example["replaced"] = bool(example["gold"]) and str(example["gold"]).strip() != str(example["answer"]).strip()
        if not (example["attempts"] or example["replaced"] or example["origin"] in plots.SAMPLED_ORIGINS):
            plain += 1
            if plain > _PLAIN:
                continue
        text = " ".join(str(example["prompt"] or example["answer"] or "").split())
        example["line"] = text if len(text) <= _LINE else f"{text[:_LINE].rstrip()}\u2026"
        examples.append(example)
    kinds = plots.origin_names([{example["origin"]: 1} for example in examples])
    return sorted(examples, key=lambda example: kinds.index(example["origin"]))


def _count_sampled_tokens(report: Mapping[str, Any]) -> float | None:
    """Tokens sampled to train on; None where the method samples nothing for that, whatever measuring sampled."""
    cost, curation = report["cost"] or {}, report["curation"] or {}
    if phrasing.is_known(cost.get("sampled_for_training")):
        return cost["sampled_for_training"] or None
    drew = (curation.get("notes") or {}).get("sampled") or {*(curation.get("counts") or {})} & plots.SAMPLED_ORIGINS
    return cost.get("sampled_tokens") if drew else None


def _select_flips(task: Mapping[str, Any], items: Mapping[str, Sequence[dict[str, Any]]] | None) -> dict[str, Any]:
    """The flipped answers of one task, lost ones first: {"task", "won", "lost", "shown", "total"}."""
    flips = list((items or {}).get(task["name"]) or task.get("flips") or [])
    rows = sorted(
        (_fill_missing(f, ("id", "prompt", "reference", "base", "tuned")) for f in flips), key=lambda f: bool(f["won"])
    )[:MOST_FLIPS]
    n_won, n_lost = (task.get("won"), task.get("lost"))
    n_won = sum(bool(f["won"]) for f in flips) if n_won is None else n_won
    n_lost = sum(not f["won"] for f in flips) if n_lost is None else n_lost
    return {"task": task, "shown": rows, "won": n_won, "lost": n_lost, "total": max(len(flips), n_won + n_lost)}


def _origin_shares(counts: Mapping[str, float] | None) -> list[dict[str, Any]]:
    counts = counts or {}
    total = sum(counts.values())
    kinds = plots.origin_names([dict(counts)])
    return [
        {"name": kind, "count": counts[kind], "share": counts[kind] / total, "cls": plots.origin_class(kind, kinds)}
        for kind in kinds
    ]


def _curve_rows(curves: Sequence[Mapping[str, Any]], most: int = 24) -> list[Mapping[str, Any]]:
    """The steps worth a line in the table: those evaluated, or an even choice when none or too many were."""
    rows = [c for c in curves if any(phrasing.is_known(c.get(part)) for part in _CURVES)] or list(curves)
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _run_plots(report: dict[str, Any]) -> dict[str, Any]:
    counts = (report.get("curation") or {}).get("counts") or {}
    seconds = {k: v for k, v in ((report.get("cost") or {}).get("seconds") or {}).items() if phrasing.is_known(v)}
    return {
        "plane": plots.run_plane(report),
        "way": len(plots.run_way(report)) > 1,
        "deltas": plots.delta_bars(report["tasks"]),
        "curves": curve_plots.run_curves(report),
        "analyses": section_plots.draw_sections(report.get("analyses") or []),
        "origins": plots.share_bars([("", counts)], plots.origin_names([counts])),
        "time": plots.share_bars([("", seconds)], plots.origin_names([seconds]), "time", "Where the time went"),
    }


def render_run(report: dict[str, Any], items: Mapping[str, Sequence[dict[str, Any]]] | None = None) -> str:
    """The page of one run.

    Args:
        report: The content of `report.json`.
        items: Flipped answers by task name (the shape of `tasks[].flips`) where the caller has more of them than the
            report keeps; up to `MOST_FLIPS` per task are shown.

    Returns:
        The whole page; the same input always gives the same text.
    """
    report = _complete_report(report)
    tasks = report["tasks"]
    seconds = (report["cost"] or {}).get("seconds") or {}
    page = build_environment().get_template("run.html.j2")
    return page.render(
        report=report,
        name=report.get("name") or "run",
        method=phrasing.method_of(report),
        created=_format_time(report.get("created", "")),
        model=_complete_model(report),
        tasks=tasks,
        verdict=phrasing.describe_result(report),
        clipped=phrasing.make_sentence(clipping.describe_clipping(report)),
        gain=phrasing.change_of(report.get("gain")),
        loss=phrasing.change_of(report.get("loss")),
        gate_reasons=[phrasing.make_sentence(reason) for reason in (report["gate"] or {}).get("reasons") or []],
        worst=next(
            (t for t in tasks if (worst_task := phrasing.worst_of(report)) and t["name"] == worst_task["name"]), None
        ),
        stages=[
            {**stage, "gain": phrasing.change_of(stage["gain"]), "loss": phrasing.change_of(stage["loss"])}
            for stage in report["stages"]
        ],
        examples=_select_examples(report["curation"]),
        sampled=_count_sampled_tokens(report),
        kept=[t for t in tasks if t.get("role") == "keep" and phrasing.in_points(t)],
        means={r: {f: phrasing.mean_score(tasks, r, f) for f in ("base", "tuned")} for r in ("target", "keep")},
        probed=next((t for t in tasks if t["kind"] == "probe"), None),
        flips=[f for f in (_select_flips(t, items) for t in tasks) if f["shown"]],
        origins=_origin_shares((report["curation"] or {}).get("counts")),
        times=_origin_shares({k: v for k, v in seconds.items() if phrasing.is_known(v)}),
        seconds=phrasing.total_seconds(report["cost"]),
        curve_rows=_curve_rows(report["curves"]),
        recipe=_dump_yaml(report.get("recipe")),
        versions=report.get("versions") or {},
        plots=_run_plots(report),
    )


def render_analyses(report: dict[str, Any]) -> str:
    """The page of several runs held against each other, from the content of `analysis.json`."""
    page = build_environment().get_template("analysis.html.j2")
    sections = report.get("analyses") or []
    return page.render(
        name=report.get("name") or "analysis",
        runs=report.get("runs") or [],
        sections=sections,
        versions=report.get("versions") or {},
        plots={"analyses": section_plots.draw_sections(sections)},
    )


def _compare_plots(compare: dict[str, Any], colours: Sequence[int]) -> dict[str, Any]:
    bars = [(run["method"], run.get("origins") or {}) for run in compare["runs"]]
    kinds = plots.origin_names([counts for _, counts in bars])
    return {
        "plane": plots.compare_plane(compare, colours),
        "matched": matched_plane(compare.get("matched")),
        "curves": curve_plots.compare_curves(compare, colours),
        "origins": plots.share_bars(bars, kinds),
        "kinds": [(kind, plots.origin_class(kind, kinds)) for kind in kinds],
    }


def _complete_arm(run: dict[str, Any], index: int, name: str) -> dict[str, Any]:
    """One run with what the template shows of it."""
    cost = complete_part(run.get("cost"), CostReport)
    return {
        "tasks": {},
        "seeds": [],
        "dirs": [],
        "target": None,
        "keep": None,
        "pareto": False,
        "points": [],
        "text": None,
        "held_out": None,
        "probe": None,
        "gate": None,
        "trainable": None,
        **run,
        "index": index % plots.COLOURS,
        "gain": phrasing.change_of(run.get("gain")),
        "loss": phrasing.change_of(run.get("loss")),
        "origins": _origin_shares(run.get("origins")),
        "seconds": phrasing.total_seconds(run.get("cost")),
        "cost": cost,
        "passes": phrasing.passes_per_question(cost),
        "inference": run.get("inference"),
        "sampled": _count_sampled_tokens({"cost": cost, "curation": {"counts": run.get("origins") or {}}}),
        "reports": [_report_link(d, name) for d in run.get("dirs") or []],
    }


def _report_link(directory: str, comparison: str) -> str | None:
    """The report of a run that lies inside the comparison's directory, from there; None of one that lies elsewhere."""
    path = PurePath(directory)
    return f"{path.name}/report.html" if path.parent.name == comparison else None


def _side_by_side(compare: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The questions that were answered differently, task by task."""
    colours = {run["method"]: run["index"] for run in runs}
    places = ["base", *colours]
    groups: dict[str, list[dict[str, Any]]] = {}
    for question in compare.get("answers") or []:
        answers = [{**answer, "index": colours.get(answer["method"])} for answer in question["answers"]]
        answers.sort(key=lambda answer: places.index(answer["method"]) if answer["method"] in places else len(places))
        groups.setdefault(question["task"], []).append({**question, "answers": answers})
    labels = {task["name"]: task["label"] for task in compare["tasks"]}
    return [{"label": labels.get(name, name), "questions": questions} for name, questions in groups.items()]


def _complete_tasks(compare: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tasks as on the page of a run: targets first, then from the most lost to the most gained, in the mean."""

    def mean_delta(name: str) -> float | None:
        deltas = [
            run["tasks"][name]["delta"]
            for run in runs
            if phrasing.is_known((run["tasks"].get(name) or {}).get("delta"))
        ]
        return sum(deltas) / len(deltas) if deltas else None

    context = {"recipe": compare.get("recipe"), "model": compare.get("model")}
    return phrasing.order_tasks(
        [
            _fill_missing(task, ("role", "n", "base", "unit", "better", "kind"))
            | {
                "delta": mean_delta(task["name"]),
                "label": phrasing.label_of(task, context["recipe"]),
                "about": _describe_skill(task, context),
            }
            for task in compare["tasks"]
        ]
    )


def render_compare(compare: dict[str, Any]) -> str:
    """The page of a comparison, from the content of `compare.json`; the same input always gives the same text."""
    original_runs = compare.get("runs") or []
    compare = {"budget": "", "created": "", **compare, "runs": ranking.rank_methods(original_runs)}
    name = compare.get("name") or "comparison"
    # Colours go by the order the methods were named in, so that a method keeps its own when results change places.
    order = [next(i for i, other in enumerate(original_runs) if other is run) for run in compare["runs"]]
    runs = [_complete_arm(run, i, name) for run, i in zip(compare["runs"], order, strict=True)]
    compare["tasks"] = tasks = _complete_tasks({**compare, "tasks": compare.get("tasks") or []}, runs)
    scores = {t["name"] for t in tasks if phrasing.in_points(t)}
    biggest = [
        abs(t["delta"])
        for r in runs
        for n, t in r["tasks"].items()
        if n in scores and phrasing.is_known(t.get("delta"))
    ]
    return (
        build_environment()
        .get_template("compare.html.j2")
        .render(
            compare=compare,
            name=name,
            created=_format_time(compare.get("created", "")),
            model=_complete_model(compare),
            tasks=tasks,
            runs=runs,
            target_unit=phrasing.unit_of(next((r["gain"] for r in runs if r["gain"]), None)),
            answers=_side_by_side(compare, runs),
            biggest=max(biggest, default=1.0) or 1.0,
            target_in_bits=not all(phrasing.in_points(run["gain"]) for run in runs if run["gain"]),
            lost_of=next((part["of"] for run in runs if (part := phrasing.lost_part(run))), "tasks"),
            means={role: phrasing.mean_score(tasks, role, "base") for role in ("target", "keep")}
            | {kind: next((t["base"] for t in tasks if t["kind"] == kind), None) for kind in ("held_out", "probe")},
            **ranking.collect_page_texts(compare, original_runs),
            seeds=max((len(run["seeds"]) for run in runs), default=0),
            recipe=_dump_yaml(compare.get("recipe")),
            versions=compare.get("versions") or {},
            plots=_compare_plots(compare, order),
        )
    )


def write_page(path: str | Path, html: str) -> Path:
    """Writes the page under a side name and renames it, so that a reader never meets half a page.

    Raises:
        OSError: The directory does not exist or cannot be written.
    """
    replace_file(Path(path), html)
    return Path(path)
