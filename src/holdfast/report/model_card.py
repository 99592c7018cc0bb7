"""The model card: a README.md with YAML front matter that says what was gained, what was lost and how to load it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import PurePath
from typing import Any

import yaml

from holdfast.axes.tuner import TRANSFORMERS, SavedFormat
from holdfast.core.safe_text import make_printable
from holdfast.report import phrasing
from holdfast.report.asked import asked_words, serve_options, unanswered_words, unended_words

_SAME_SOURCE = "The target questions come from the same source as the training rows; elsewhere the gain may be smaller."
_OWN_WORDS = "Some answers trained on were written by the model itself; mistakes its judge cannot see were kept."


def _base_name(report: dict[str, Any]) -> str:
    """The base model's name; of a path on somebody's disk only the last part."""
    name = str((report.get("model") or {}).get("name") or "")
    return PurePath(name).name if name.startswith(("/", "~", ".")) else name


def _saved_as(report: dict[str, Any]) -> SavedFormat:
    """What the tuner said it left; of a report that does not say, a plain model."""
    entry = (report.get("model") or {}).get("saved_as")
    return SavedFormat(**entry) if entry else TRANSFORMERS


def front_matter(report: dict[str, Any]) -> dict[str, Any]:
    """What the Hugging Face hub reads: base model, library, tags, task and, where known, the licence."""
    method = phrasing.method_of(report)
    entries = {
        "base_model": _base_name(report) or None,
        "library_name": _saved_as(report).library,
        "pipeline_tag": "text-generation",
        "tags": ["holdfast", "fine-tuned", *method.split(", ")],
        "license": (report.get("model") or {}).get("license"),
    }
    return {k: v for k, v in entries.items() if v}


def _escape_cell(value: object) -> str:
    """Text that stays inside its cell and its line, and is not taken for markup."""
    text = re.sub(r"\s+", " ", make_printable(str(value)))
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", text)


def _format_code(text: str) -> str:
    """Text on one line as code, marked by more back ticks than any run of them inside."""
    line = " ".join(make_printable(text, one_line=True).split())
    marks = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    beside = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{marks}{beside}{line}{beside}{marks}"


def _fence_code(text: str, language: str = "") -> str:
    """A code block fenced longer than any fence inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _format_results(report: dict[str, Any]) -> str:
    tasks = phrasing.order_tasks(report.get("tasks") or [])
    if not tasks:
        return "Nothing was measured."
    lines = ["| task | role | n | base | tuned | change | 95 % interval | p |", "|---|---|" + "---:|" * 6]
    for t in tasks:
        unit, name = phrasing.unit_of(t), phrasing.label_of(t, report.get("recipe"))
        scores = [phrasing.format_figure(t.get(when), unit) for when in ("base", "tuned")]
        scores.append(phrasing.format_signed(t.get("delta"), phrasing.decimals_of(unit)))
        name = _escape_cell(name) + ("" if phrasing.in_points(t) else f" ({unit})")
        cells = [name, _escape_cell(t.get("role")), phrasing.format_count(t.get("n")), *scores]
        span = phrasing.format_interval(t.get("low"), t.get("high"), sign=True, unit=unit)
        cells += [span, phrasing.format_pvalue(t.get("p")).replace("<", "&lt;")]
        lines.append("| " + " | ".join(cells) + " |")
    gain, loss, text = (
        phrasing.change_of(report.get("gain")),
        phrasing.change_of(report.get("loss")),
        report.get("text"),
    )
    if gain:
        unit = phrasing.unit_of(gain)
        title = "gained on the target" if phrasing.in_points(gain) else f"gained on the target, {unit} less"
        span = phrasing.format_interval(gain["low"], gain["high"], sign=True, unit=unit)
        lines.append(
            _format_summary_row(title, phrasing.format_signed(gain["delta"], phrasing.decimals_of(unit)), span)
        )
    if loss:
        lines.append(
            _format_summary_row(
                "lost elsewhere",
                phrasing.format_points(loss["delta"]),
                phrasing.format_interval(loss["low"], loss["high"]),
            )
        )
    if text:
        span = phrasing.format_interval(text["low"], text["high"], sign=True)
        lines.append(_format_summary_row("bits of kept text, per cent", phrasing.format_signed(text["percent"]), span))
    note = (
        "Scores are points from 0 to 100, higher is better; bits count down to 0, lower is better. A change is tuned "
        "minus base, and what was lost is a positive number. Base and tuned answered the same questions; intervals are "
        "95 %, over the questions (Bonett and Price's for right and wrong), p is the exact McNemar test."
    )
    return "\n".join(lines) + "\n\n" + note


def _format_summary_row(title: str, value: str, span: str) -> str:
    """A line of the table that sums up its tasks."""
    return f"| **{title}** | | | | | **{value}** | {span} | |"


def _format_stages(report: dict[str, Any]) -> str:
    lines = ["| stage | method | from | rows | steps | gained | 95 % interval | lost elsewhere | 95 % interval |"]
    lines.append("|---|---|---|" + "---:|" * 6)
    for stage in report["stages"]:
        cells = [_escape_cell(stage[key]) for key in ("name", "method", "model")]
        cells += [phrasing.format_count(stage.get(key)) for key in ("rows", "steps")]
        for key, show in (("gain", phrasing.format_signed), ("loss", phrasing.format_points)):
            part = phrasing.change_of(stage.get(key))
            unit, sign = phrasing.unit_of(part), show is phrasing.format_signed
            cells.append(show(part["delta"], phrasing.decimals_of(unit)) if part else "")
            cells.append(phrasing.format_interval(part["low"], part["high"], sign=sign, unit=unit) if part else "")
        lines.append("| " + " | ".join(cells) + " |")
    note = "Changes are from the model before the first stage; each stage is a run of its own in `stages/`."
    return "\n".join(lines) + "\n\n" + note


def _describe_loading(report: dict[str, Any], place: str) -> str:
    """How to load the weights that lie at `place`, in the type in which they were measured."""
    saved_as, base = _saved_as(report), _base_name(report) or "BASE"
    serve = saved_as.fill_snippet(saved_as.serve, place=place, base=shlex.quote(base))
    what = "weights of the adapter" if saved_as.adapter else "weights"
    types = report.get("model") or {}
    file_dtype, measured_dtype = types.get("dtype"), types.get("measured_dtype") or "auto"
    values = {"place": place, "base": base, "dtype": str(measured_dtype)}
    python = saved_as.fill_snippet(saved_as.load, **{key: json.dumps(value) for key, value in values.items()})
    lies = "in `model/` beside this file" if place == "model" else "in this folder"
    kind = (
        f" They are {_escape_cell(file_dtype)}, and were measured in {_escape_cell(measured_dtype)}."
        if file_dtype and not saved_as.adapter
        else ""
    )
    parts = [
        saved_as.fill_snippet(saved_as.note, base=_escape_cell(base)) or f"The {what} are {lies}.{kind}",
        *_describe_decoding(types),
        _fence_code(python, "python"),
        *(["With vLLM:", _fence_code(serve + serve_options(report, place, saved_as.adapter), "sh")] if serve else []),
        *([] if serve else [f"vLLM cannot serve them{' beside their base' if saved_as.adapter else ''}."]),
        *([" ".join(map(_escape_cell, sentences))] if (sentences := asked_words(report)) else []),
    ]
    return "\n\n".join(parts)


def _describe_decoding(model: dict[str, Any]) -> list[str]:
    """What has to be known where the figures are not of the weights alone."""
    if not (line := model.get("decoding")):
        return []
    where = "`holdfast chat` and `holdfast eval` read it from `inference.json` beside the weights."
    return [f"**The figures are not of these weights alone**: {_escape_cell(line)}. {where}"]


def _describe_training(report: dict[str, Any]) -> str:
    parts = []
    counts = {k: v for k, v in ((report.get("curation") or {}).get("counts") or {}).items() if v}
    if counts:
        origins = ", ".join(f"{phrasing.format_count(v)} {_escape_cell(k)}" for k, v in counts.items())
        parts.append(f"Rows by who wrote the answer: {origins}.")
    t = report.get("training") or {}
    if t:
        parts.append(
            f"Trained on {phrasing.format_count(t.get('rows'))} rows for {phrasing.format_steps(t)} "
            f"({phrasing.format_count(t.get('tokens'))} tokens, {phrasing.format_count(t.get('trained_tokens'))} of "
            "them predicted)."
        )
    if t.get("arithmetic"):
        parts.append(f"Trained in {_escape_cell(t['arithmetic'])}.")
    if t.get("base_bits"):
        parts.append("Measured and saved is the adapter on the base as it is in its own files: serve it so.")
    seconds = phrasing.total_seconds(report.get("cost"))
    if phrasing.is_known(seconds):
        parts.append(f"It took {phrasing.format_duration(seconds)} in all.")
    text = " ".join(parts)
    recipe = report.get("recipe")
    if recipe:
        text += "\n\nWith the recipe below saved as `recipe.yaml`:\n\n" + _fence_code(
            "holdfast train recipe.yaml", "sh"
        )
        text += "\n\n" + _fence_code(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100), "yaml")
    return text.strip() or "Nothing was recorded."


def _describe_limits(report: dict[str, Any]) -> str:
    tasks = report.get("tasks") or []
    kept_tasks = [t for t in tasks if t.get("role") == "keep"]
    lines = []
    gate = report.get("gate")
    if gate and not gate["passed"]:
        lines.append(
            f"**The gate of the recipe refused this model**: {_escape_cell('; '.join(gate.get('reasons') or []))}."
        )
    if kept_tasks:
        names = ", ".join(_escape_cell(t["name"]) for t in kept_tasks)
        lines.append(f"Loss was measured on {names}; what these do not ask may have been lost unseen.")
    else:
        lines.append("No kept task was measured: what the model lost is unknown.")
    lines += [f"{_escape_cell(line)}." for line in [*unended_words(tasks), *unanswered_words(tasks)]]
    lines.append("The intervals cover the choice of questions, not of the training seed: this is one run.")
    target_source = ((report.get("recipe") or {}).get("evaluate") or {}).get("target", "test")
    if target_source == "test" and len(kept_tasks) < len(tasks):
        lines.append(_SAME_SOURCE)
    counts = (report.get("curation") or {}).get("counts") or {}
    if counts.get("model") or counts.get("paraphrase"):
        lines.append(_OWN_WORDS)
    lines += [f"{_escape_cell(text)}." for text in (report.get("training") or {}).get("warnings") or []]
    for reason, n in ((report.get("training") or {}).get("dropped") or {}).items():
        if n:
            lines.append(
                f"{phrasing.format_count(n)} row{'' if n == 1 else 's'} left out of training: {_escape_cell(reason)}."
            )
    lines.append("Safety and bias were not measured unless a task above says so.")
    return "\n".join(f"- {line}" for line in lines)


def _format_versions(report: dict[str, Any]) -> str:
    versions = report.get("versions") or {}
    return ", ".join(f"{_escape_cell(k)} {_escape_cell(v)}" for k, v in versions.items()) or "Not recorded."


def render_card(report: dict[str, Any], place: str = "model") -> str:
    """README.md of a run from the content of `report.json`; the same input always gives the same text.

    Args:
        place: Where the weights are, seen from the card: `model` in a run's directory, `.` beside them.
    """
    beside = "beside this file" if place == "model" else "in the run's directory"
    matter = yaml.safe_dump(front_matter(report), sort_keys=False, allow_unicode=True)
    method, base = phrasing.method_of(report), _base_name(report)
    result = _escape_cell(phrasing.describe_result(report))
    intro = f"{_format_code(base or 'A model')} fine-tuned with {_escape_cell(method)}. {result}"
    sections = [
        f"---\n{matter}---",
        f"# {_escape_cell(report.get('name') or 'run')}",
        intro,
        "## What it gained and lost\n\n" + _format_results(report),
        *(["## The stages\n\n" + _format_stages(report)] if report.get("stages") else []),
        *(
            f"## {_escape_cell(s['title'])}\n\n{_escape_cell(s.get('sentence') or '')}"
            for s in report.get("analyses") or []
        ),
        f"`report.html` {beside} shows every task, the answers that flipped and where the rows came from.",
        "## How to load it\n\n" + _describe_loading(report, place),
        "## How it was trained\n\n" + _describe_training(report),
        "## What this does not tell\n\n" + _describe_limits(report),
        "## Versions\n\n" + _format_versions(report),
    ]
    return "\n\n".join(sections) + "\n"
