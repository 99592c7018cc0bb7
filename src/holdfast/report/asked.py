"""How a model was asked, in words: what its chat template was given, system message, and thoughts that did not end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.report import phrasing


def asked_words(report: Mapping[str, Any]) -> list[str]:
    """Sentences on what belongs to the numbers besides weights and questions."""
    chat, out = report.get("chat") or {}, []
    if chat.get("chat_template_kwargs"):
        out.append(f"The chat template was given {json.dumps(chat['chat_template_kwargs'], ensure_ascii=False)}.")
    if chat.get("system"):
        out.append(f"Conversations without a system message had this one: {chat['system']!r}.")
    if chat.get("thoughts") in ("mask", "strip"):
        handling = {"mask": "read, but not trained on", "strip": "taken out of the rows"}[chat["thoughts"]]
        out.append(f"Thoughts in answers were {handling}.")
    if chat.get("own_template"):
        out.append("The model it started from has no such chat template: it stands beside these weights.")
    return out


def serve_options(report: Mapping[str, Any], place: str, adapter: bool) -> str:
    """What `vllm serve` needs besides the weights to ask the model as it was trained."""
    chat, out = report.get("chat") or {}, ""
    if adapter and chat.get("own_template"):
        out += f" --chat-template {place}/chat_template.jinja"
    if chat.get("chat_template_kwargs"):
        out += f" --default-chat-template-kwargs {shlex.quote(json.dumps(chat['chat_template_kwargs']))}"
    return out


def unended_words(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every task on which thoughts did not end."""
    out = []
    for task in tasks:
        base, tuned = ((task.get("thoughts") or {}).get(when) for when in ("base", "tuned"))
        if any(part and part["unended"] for part in (base, tuned)):
            before = f", {_unended_share(base, task)} before" if "base" in task else ""
            out.append(f"{task['name']}: thought did not end: {_unended_share(tuned, task)}{before}")
    return out


UNANSWERED = {
    "unfit": "prompts that do not fit into the model's context",
    "cut": "answers cut at their longest (max_tokens)",
    "broken": "episodes on which the environment broke",
}
"""Why there is no whole answer, in words."""


def unanswered_words(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every task with prompts that did not fit, which no figure counts, and one with answers that were cut,
    which count as they are."""
    out = []
    for task in tasks:
        for key, what in UNANSWERED.items():
            base, tuned = (((task.get("unanswered") or {}).get(when) or {}).get(key, 0) for when in ("base", "tuned"))
            if base or tuned:
                left_out = task.get("left_out") or 0
                n = phrasing.format_count(task["n"] + (left_out if key != "cut" else 0))
                before = f", {phrasing.format_count(base)} of {n} before" if "base" in task else ""
                rest = "; left out of all figures" if key != "cut" and left_out else ""
                out.append(f"{task['name']}: {what}: {phrasing.format_count(tuned)} of {n}{before}{rest}")
    return out


def _unended_share(part: Mapping[str, int] | None, task: Mapping[str, Any]) -> str:
    return f"{phrasing.format_count(part['unended'] if part else 0)} of {phrasing.format_count(task['n'])}"


def answering_words(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each task whose answers were made of several: how many, and how others beside them did; and for each
    that was played, in how many turns."""
    lines = []
    for task in tasks:
        if figures := task.get("episodes"):
            sides = [(when, figures[when]) for when in ("base", "tuned") if figures.get(when)]
            sentences = [
                f"{f'{when} ' if len(sides) > 1 else ''}{one['turns']:.1f} turns an episode, return "
                f"{one['return']:.2f}, {100 * one['first']:.0f} % succeed at the first"
                for when, one in sides
            ]
            lines.append(f"{task['name']}: {'; '.join(sentences)}")
        answering = task.get("answering") or {}
        parts = []
        if answering.get("calls"):
            calls, tokens = (phrasing.format_points(answering[key]) for key in ("calls", "tokens"))
            parts.append(f"asked {calls} times an answer, {tokens} tokens written for it")
        parts += [
            f"{name} instead: {phrasing.format_points(points)} points"
            for name, points in (answering.get("beside") or {}).items()
        ]
        if parts:
            lines.append(f"{task['name']}: {'; '.join(parts)}")
    return lines


def trace_entries(trace: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """How an answer came about, as (label, text): its sources, hypothesis, paths, tries and votes."""
    trace = trace or {}
    entries = [(f"source {one['name']}", str(one["text"])) for one in trace.get("sources") or ()]
    entries += [("hypothesis", trace["hypothesis"])] if trace.get("hypothesis") else []
    entries += [("path", one["text"]) for one in trace.get("paths") or ()]
    reflections = ["", *(trace.get("reflections") or ())]
    for number, trial in enumerate(trace.get("trials") or (), 1):
        if number <= len(reflections) and reflections[number - 1]:
            entries.append(("reflection", reflections[number - 1]))
        entries.append(
            (f"try {number}, {'passed' if trial['passed'] else 'failed'}", f"{trial['text']} ({trial['reason']})")
        )
    entries += [(f"{count} votes", answer) for answer, count in (trace.get("votes") or {}).items()]
    if trace.get("scores"):
        entries += [(f"score {score:.3g}", text) for score, text in zip(trace["scores"], trace["answers"], strict=True)]
    return entries
