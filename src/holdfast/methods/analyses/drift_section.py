"""What is said and drawn of drift."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from holdfast.axes.analysis import AnalysisSection, SectionFigure, Series, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.data.chat.encoder import Chat
    from holdfast.methods.analyses.drift import TaskDrift

LAYER = re.compile(r"\.(\d+)\.")


def build_section(
    drifts: Sequence[TaskDrift], matrices: dict[str, float], remark: str, chat: Chat, n_tokens: int
) -> AnalysisSection:
    """The section: a sentence, a long table (what, task, where, value), figures, and the answers that moved most."""
    tokens = rank_tokens(drifts, chat)[:n_tokens]
    rows: list[tuple[Any, ...]] = []
    for drift in drifts:
        rows.append(("KL, nats a token", drift.name, "answers", drift.kl))
        rows.append(("same next token, %", drift.name, "answers", 100 * drift.agreement))
        rows += [("CKA", drift.name, name_layer(i), value) for i, value in enumerate(drift.cka)]
    rows += [("KL of the token, nats a time", "all", text, mean) for text, mean, _ in tokens]
    rows += [("share of all KL, %", "all", text, 100 * share) for text, _, share in tokens]
    rows += [("change, % of its size", "", name, 100 * value) for name, value in matrices.items()]
    figures = [draw_tasks(drifts), draw_tokens(tokens), *draw_layers(drifts), *draw_matrices(matrices)]
    examples = tuple(example for drift in drifts for _, example in drift.examples)
    sentence = " ".join(filter(None, [describe_drift(drifts), describe_token(tokens), remark]))
    table = Table(("What", "Task", "Where", "Value"), tuple(rows))
    return AnalysisSection("How far it moved", sentence, table, tuple(figures), examples)


def name_layer(place: int) -> str:
    """What the place of a state is called: the embeddings come before layer 1."""
    return f"layer {place}" if place else "embeddings"


def describe_drift(drifts: Sequence[TaskDrift]) -> str:
    """On which task predictions moved most and least, and in which layer representations did."""
    most, least = max(drifts, key=lambda d: d.kl), min(drifts, key=lambda d: d.kl)
    text = f"Predictions moved most on {most.name}, by {most.kl:.3g} nats a token"
    if len(drifts) > 1:
        text += f", and least on {least.name}, by {least.kl:.3g}"
    places = [(value, i, drift.name) for drift in drifts for i, value in enumerate(drift.cka)]
    if places:
        value, place, name = min(places)
        text += f"; representations most at {name_layer(place)} on {name}, to a CKA of {value:.2f} (1: as before)"
    return f"{text}."


def describe_token(tokens: Sequence[tuple[str, float, float]]) -> str:
    """Which token holds most of the divergence."""
    text, mean, share = tokens[0]
    return f"{share:.0%} of all divergence stands at the token {text!r}, {mean:.2g} nats a time." if share else ""


def rank_tokens(drifts: Sequence[TaskDrift], chat: Chat) -> list[tuple[str, float, float]]:
    """Tokens of answers as (text, mean nats, share of all divergence), those with the largest share first."""
    nats: dict[int, list[float]] = defaultdict(list)
    for drift in drifts:
        for token, values in drift.by_token.items():
            nats[token] += values
    total = sum(map(sum, nats.values())) or 1.0
    order = sorted(nats, key=lambda token: (-sum(nats[token]), token))
    return [(chat.text_of([t]), sum(nats[t]) / len(nats[t]), sum(nats[t]) / total) for t in order]


def draw_tasks(drifts: Sequence[TaskDrift]) -> SectionFigure:
    points = tuple((float(i), drift.kl) for i, drift in enumerate(drifts))
    labels = tuple(drift.name for drift in drifts)
    series = (Series("divergence", points),)
    return SectionFigure("task", "KL, nats a token", series, "bars", "Divergence by task", labels)


def draw_tokens(tokens: Sequence[tuple[str, float, float]]) -> SectionFigure:
    points = tuple((float(i), 100 * share) for i, (_, _, share) in enumerate(tokens))
    labels = tuple(repr(text) for text, _, _ in tokens)
    series = (Series("share", points),)
    return SectionFigure("token", "% of all divergence", series, "bars", "Where it stands", labels)


def draw_layers(drifts: Sequence[TaskDrift]) -> list[SectionFigure]:
    """CKA by layer, a line for each task; of more than eight tasks the first."""
    series = tuple(
        Series(drift.name, tuple((float(i), value) for i, value in enumerate(drift.cka)))
        for drift in drifts[:8]
        if drift.cka
    )
    title = "Representations by layer"
    return [SectionFigure("layer (0: embeddings)", "CKA with the base", series, title=title)] if series else []


def draw_matrices(matrices: dict[str, float]) -> list[SectionFigure]:
    """A heat map of the change: kinds of matrices by layers."""
    kinds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, value in matrices.items():
        if match := LAYER.search(name):
            kinds[name[match.end() :]].append((float(match[1]), 100 * value))
    if not kinds:
        return []
    last = int(max(x for points in kinds.values() for x, _ in points))
    series = tuple(Series(kind, tuple(points)) for kind, points in kinds.items())
    labels = tuple(str(i + 1) for i in range(last + 1))
    return [SectionFigure("layer", "change, % of its size", series, "heat", "Weights by matrix", labels)]
