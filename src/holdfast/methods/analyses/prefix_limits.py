"""Prefix limits: what tokens look at, layer by layer, and what a prefix or a prompt can change of it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.analysis import Analysis, AnalysisContext, AnalysisSection, SectionFigure, Series, Table
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.axes.analysis import AnalysedTask

LONGEST = 512
"""Tokens of a conversation beyond which it is left out: weights are of every pair of tokens in every head."""


class PrefixLimits(Analysis):
    """What tokens look at: a prefix adds a direction, weights move the pattern. [Petrov et al. 2023, arXiv 2310.19698]

    What it does: reads base and tuned model on the base's answers, attention weights and all. Per layer: how much of
    its attention a token gives to the virtual tokens before it (prompt, p-tuning, prefix), and how far what tokens look
    at among themselves moved: the total variation, from 0 to 1, of the weights of the tokens alone.

    When it helps: keys and values before the tokens scale all other weights alike, so that in the first layer what
    tokens look at relative to each other stays the base's, to rounding, and later layers see it moved through their
    input alone; an adapter or full fine-tuning changes it everywhere. Where a prefix learned nothing, this says why:
    the skill would need another pattern, which calls for `lora`.

    When it fails: with positions that are added to the input (GPT-2), which virtual tokens shift, the first layer's
    input moves too. Much may change while the pattern stays, in values and in the layers between (`drift` sees it).
    What a head looks at is not what it does.

    Formula, with a_i the weight that token i gives to one key before all tokens:

        A'_ij = (1 - a_i) A_ij,   out'_i = (1 - a_i) out_i + a_i v

    Paper: Petrov, Torr, Bibi 2023, "When Do Prompting and Prefix-Tuning Work?" (arXiv 2310.19698). Its four experiments
    are `holdfast reproduce prefix`.
    """

    paper: ClassVar[str] = "Petrov et al. 2023, arXiv 2310.19698"

    items: int = Field(8, ge=1, description="How many answers of each task are read.")

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        tasks = {task.name: layers for task in context.tasks if (layers := self.measure_task(task, context))}
        if not tasks:
            raise UserError(f"no task has an answer of at most {LONGEST} tokens to read")
        lines = [
            (name, layer, 100 * mass, change)
            for name, layers in tasks.items()
            for layer, (mass, change) in enumerate(layers, 1)
        ]
        columns = ("Task", "Layer", "Attention to virtual tokens, %", "Pattern among tokens moved by")
        figures = [draw_column(tasks, 1, "pattern moved by (total variation)", "What tokens look at among themselves")]
        if context.tuned.virtual:
            figures.insert(
                0, draw_column(tasks, 0, "attention to virtual tokens, %", "Attention to what stands before")
            )
        sentence = describe_layers(list(tasks.values()), context.tuned.virtual)
        return AnalysisSection("What tokens look at", sentence, Table(columns, tuple(lines)), tuple(figures))

    def measure_task(self, task: AnalysedTask, context: AnalysisContext) -> list[tuple[float, float]]:
        """Of each layer the attention to virtual tokens, and how far the pattern moved; nothing without an answer."""
        from holdfast.methods.analyses.answer_tokens import encode_answers
        from holdfast.models.attention_maps import compare_attention, eager_attention, mean_over, read_attention

        _, sequences = encode_answers(task, context.chat, self.items)
        by_layer: dict[int, list[tuple[float, float]]] = defaultdict(list)
        with eager_attention(context.base), eager_attention(context.tuned):
            for sequence in sequences:
                if len(sequence.ids) <= LONGEST:
                    pairs = zip(*(read_attention(p, sequence) for p in (context.base, context.tuned)), strict=True)
                    for layer, (base, tuned) in enumerate(pairs):
                        by_layer[layer].append(compare_attention(base, tuned))
        return [mean_over(pairs) for pairs in by_layer.values()]


def describe_layers(tasks: list[list[tuple[float, float]]], virtual: int) -> str:
    """What goes to virtual tokens, and how far the pattern moved in the first layer and where it moved most."""
    layers = [tuple(sum(task[i][part] for task in tasks) / len(tasks) for part in (0, 1)) for i in range(len(tasks[0]))]
    most = max(range(len(layers)), key=lambda i: layers[i][1])
    pattern = (
        f"what tokens look at among themselves moved by {layers[0][1]:.4f} in layer 1 and by {layers[most][1]:.4f} in "
        f"layer {most + 1}, where it moved most (0: not at all, 1: to other tokens)"
    )
    if not virtual:
        return f"No virtual tokens stand before the sequences; {pattern}."
    mass = sum(layer[0] for layer in layers) / len(layers)
    return f"The {virtual} virtual tokens take {mass:.1%} of the attention; {pattern}."


def draw_column(tasks: dict[str, list[tuple[float, float]]], part: int, y: str, title: str) -> SectionFigure:
    """A curve of each task over the layers."""
    scale = 1 if part else 100
    series = tuple(
        Series(name, tuple((float(i), scale * layer[part]) for i, layer in enumerate(layers, 1)))
        for name, layers in tasks.items()
    )
    return SectionFigure("layer", y, series, title=title)
