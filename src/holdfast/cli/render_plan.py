"""What `holdfast plan` prints."""

from __future__ import annotations

import sys
from typing import Any

from holdfast.cli.text import format_table, format_title
from holdfast.core.terminal import paint_text

PARTS = ("sampling", "training", "evaluation")
NOT_COUNTED = (
    "Not counted: loading, judging, saving, and the start of kernels, which is most of what small models take."
)
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def format_cluster_plan(findings: dict[str, Any]) -> str:
    """What `holdfast.pipeline.cluster.plan.plan_cluster` found, for people."""
    stages = findings.get("stages")
    head = f"{findings['gpus']:,} {findings['kind']} in {findings['nodes']:,} machine{'s'[: findings['nodes'] > 1]}"
    rows = [(one["name"], format_amount(one["value"], one["unit"]), one["why"]) for one in findings["assumptions"]]
    parts = [format_title(f"Assumptions: {head}"), format_table(rows, right=(1,), wrap=(2,))]
    for number, stage in enumerate(stages or (), 1):
        parts += [format_title(f"Stage {number}: {stage['name']}") + f" ({stage['what']})", *format_one_plan(stage)]
    return "\n\n".join([*parts, *(() if stages else format_one_plan(findings))])


def format_amount(value: float, unit: str) -> str:
    """A number with its unit, large ones by thousands."""
    for size, prefix in PREFIXES if unit in ("FLOP/s", "B/s") else ():
        if value >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".rstrip()


def format_one_plan(plan: dict[str, Any]) -> list[str]:
    """The plan of a recipe, or of a stage."""
    model, memory = plan["model"], plan["memory"]
    lines = [
        ("parameters", f"{model['parameters']:,}, of which {model['trainable']:,} train"),
        ("of a token", f"{model['active']:,} are multiplied with; {model['cache_bytes']:,} B of keys and values"),
        ("memory of a GPU", memory["memory"]),
        *_training_lines(plan["training"]),
        *(line for name in ("sampling", "evaluation") if plan[name] for line in _answer_lines(name, plan[name])),
    ]
    times = [
        (name, _format_hours(part["hours"]), _format_hours(part["gpu_hours"]), part.get("bound", ""))
        for name in PARTS
        if (part := plan[name])
    ]
    total = plan["total"]
    times.append(("together", _format_hours(total["hours"]), _format_hours(total["gpu_hours"]), ""))
    warnings = [f"{paint_text('warning:', 'yellow', sys.stdout)} {text}" for text in plan["warnings"]]
    table = format_table(times, ("", "hours", "GPU hours", "waits for"), right=(1, 2))
    return [format_table(lines, wrap=(1,)), table, NOT_COUNTED, *warnings]


def _training_lines(training: dict[str, Any]) -> list[tuple[str, str]]:
    """Steps, and what one takes."""
    many = training["micro_batches"]
    cut = f"{many:,} micro-batch{'es' if many > 1 else ''} of at most {training['micro_tokens']:,} tokens on each GPU"
    seconds = f"{training['compute_seconds']:.3g} s of products, {training['traffic_seconds']:.3g} s of traffic"
    return [
        ("steps", f"{training['steps']:,}, batch_tokens {training['batch_tokens']:,}: {training['batch']}"),
        ("a step", f"{training['step_seconds']:.3g} s: {seconds}; {cut}"),
    ]


def _answer_lines(name: str, part: dict[str, Any]) -> list[tuple[str, str]]:
    """Answers, and how they are written."""
    counts = (
        f"{part['answers']:,} answers of at most {part['tokens']:,} tokens in all, {part['read_tokens']:,} tokens read"
    )
    if part["hours"] is None:
        return [(name, counts)]
    copies = f"{part['copies']:,} cop{'ies' if part['copies'] > 1 else 'y'} on {part['gpus_per_copy']} each"
    return [
        (name, counts),
        ("", f"{part['tokens_per_second']:,.0f} tokens/s: {copies}, {part['batch']:,} answers at once"),
    ]


def _format_hours(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"
