"""Writes docs/methods.md from the registry: `python docs/methods.py`. The tests check that it is up to date."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.axes.axis import AXES
from holdfast.axes.registry import REGISTRY, find_method, method_names
from holdfast.axes.tuner import TRAIT_COLUMNS, TRAITS_KEY
from holdfast.axes.variants import VARIANTS, Variant

NONE = "\u2013"
START = """# Methods

A method is a choice on one axis. `method: s3ft+ift+half` joins several; `holdfast show NAME` is the page of each.
A preset stands for stages. A name "with" knobs is the field's name for another method with these knobs set; a class of
your own goes by `package.module:Class` ([add a method](add-a-method.md)).
"""


SETTINGS = """## What objectives train with

Where the recipe says nothing: learning rate of base weights and of an adapter, epochs, most rows of a step, and whose
numbers these are. Ten times the rate for an adapter, where the paper has none: it moves a weight by the product of
two small matrices of which one begins at 0, so the same step of Adam moves it less, and the best rate is about ten
times as large whatever the rank (Schulman et al. 2025, LoRA Without Regret; the alignment handbook goes from 5e-7 to
5e-6). `tuner: half` takes the rate of base weights; `optimizer: lomo`, `adalomo`, `adafactor` and `sgd` have rates of
their own. Laboratory models have 3e-4 (adapter 1e-3), 3 epochs and steps of 2,048 tokens for every objective.

| objective | base weights | adapter | epochs | rows | from |
|---|---|---|---|---|---|
"""


TAXONOMY = """\
The kinds are those of Han et al. 2024 (Parameter-Efficient Fine-Tuning for Large Models, arXiv 2403.14608): additive
(new weights), selective (some of the model's own; `full` selects all), reparametrised (the model's own, in fewer
coordinates), hybrid (several of these). Each line is that of the default knobs; `holdfast list tuners` prints it, and
the tests hold it: the formula against the count on three architectures, merged and taken off against the base.
"""


INFERENCE = """\
A method may change weights, which is done once, after training, and needs nothing more to load them; or what is asked
for (prompt, sampling, several attempts, what an answer begins with), or the logits of the next token, out of those of
several models with one tokenizer. Such answers are not in the weights alone: `inference.json` beside them says how they
are made, `holdfast chat` and `holdfast eval` follow it, `holdfast export` copies it and says that plain transformers
knows nothing of it (and refuses `--dial` there). `holdfast eval MODEL --inference NAME` and `holdfast chat` ask any
model through a method, whatever it was trained with. Log-probabilities (multiple choice, perplexity, held-out answers,
the probe) follow prompt and logits too; of attempts and beginnings they know nothing: a task that sees nothing of a
method is named, and a run in which no task does is refused. What `rag`, `hykge`, `reflexion` and votes came to an
answer by (sources, paths, tries, votes) stands beside it in the results (`trace`) and under the answers of the report,
with how often the model was asked and what it wrote. A judge that asks for the right answer never decides between
attempts unless `oracle: true` says so. Training that starts from such a run starts from its
weights, and says so. `holdfast dial RUN` measures a finished run at several points between base and tuned; a comparison
says of its arms how many forward passes and how long their answers took.
"""


def settings() -> str:
    """A table of what `Objective.settings` says."""
    rows = []
    for name in REGISTRY["objectives"]:
        usual = find_method("objectives", name).settings  # type: ignore[attr-defined]
        adapter = usual.learning_rate(adapter=True)[0]
        rows.append(
            f"| `{name}` | {usual.rate:g} | {adapter:g} | {usual.epochs:g} | {usual.batch} | {usual.source} |\n"
        )
    return SETTINGS + "".join(rows) + "\n`una` with `form: pair` or `binary` takes 5e-7 and 5e-6.\n"


def traits() -> str:
    """The table that `holdfast list tuners` prints."""
    rows = [find_method("tuners", name)().trait_cells(name) for name in method_names("tuners")]  # type: ignore[attr-defined]
    lines = [TRAIT_COLUMNS, ["---"] * len(TRAIT_COLUMNS), *([f"`{name}`", *cells] for name, *cells in rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    factors = {name: find_method("tuners", name).rate_factor for name in REGISTRY["tuners"]}  # type: ignore[attr-defined]
    times = ", ".join(f"{factor:g} for `{name}`" for name, factor in factors.items() if factor != 1)
    rates = f"Default learning rates are those of an adapter (or of base weights) times {times}.\n"
    return f"## What tuners train\n\n{TRAITS_KEY}\n\n{TAXONOMY}\n{rates}\n{table}"


def settings_of(variant: Variant) -> str:
    """The knobs that a variant sets, as a recipe would."""
    return " with " + ", ".join(f"{k}: {str(v).lower()}" for k, v in variant.knobs.items()) if variant.knobs else ""


BY_PATH = """\
Any optimizer class of `torch.optim` or of an installed library goes by its path, with its own arguments as settings,
which are checked against its signature: `optimizer: {name: torch.optim.RAdam, betas: [0.9, 0.99]}`. Its rate, schedule
and clipping are the trainer's; norms and biases are not decayed. [Scaling](scaling.md) has what they take of memory.
"""


def table() -> str:
    """The page: a table for every axis."""
    out = [START]
    for axis, question in ((a.plural, a.question) for a in AXES):
        out += [f"## {axis}: {question}", "", "| name | what | paper |", "|---|---|---|"]
        for name in method_names(axis):
            method = find_method(axis, name)
            what = re.sub(r"\s*\[[^\]]*\]\s*$", "", method.summary_line()).rstrip(".").replace("|", "\\|")
            variant = VARIANTS.get(axis, {}).get(name)
            same = f": `{variant.of}`{settings_of(variant)}" if variant else ""
            out.append(f"| `{name}` | {what}{same} | {method.paper or NONE} |")
        out.append("")
        if axis == "objectives":
            out.append(settings())
        if axis == "tuners":
            out.append(traits())
        if axis == "optimizers":
            out.append(BY_PATH)
        if axis == "inference":
            out.append(INFERENCE)
    return "\n".join(out)


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(table(), encoding="utf-8")
