"""Methods that are several runs, one after another: their stages, and the page of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdfast.axes.preset import Preset


class Zephyr(Preset):
    """SFT, then DPO on the model's own answers, ranked by the judge. [Tunstall et al. 2023, arXiv 2310.16944]

    What it does: stage `sft` trains one epoch on the rows (distilled SFT: in the paper a larger model wrote them).
    Stage `dpo` starts from that model and lets it answer every question four times (curator `pairs`); the judge's best
    answer is chosen, one with a lower score, drawn at random, is rejected, and questions whose answers are all equally
    good give no pair. Then one epoch of DPO with beta 0.01, whose reference is the model the stage starts from.

    When it helps: there are questions with a judge (or pairs of your own), and answers should be better than those to
    copy. When it fails: a judge with a taste for length or wording is what gets learned; without stage `sft` the format
    collapses (MT-Bench 4.76 instead of 7.34); DPO soon tells all pairs apart, so more epochs mostly lose elsewhere.

    The paper takes the four answers from other models and scores from GPT-4. To do so, give such pairs:
    `stages: {dpo: {data: {train: pairs.jsonl}, curate: []}}`. Beta and the single epoch are those of the authors'
    corrected recipe (alignment handbook), and so are the learning rates of stage `dpo`: 5e-7 for base weights, 5e-6 for
    an adapter, the laboratory's own for laboratory models. The first paper says beta 0.1 and three epochs.

    Columns: an answer in every row, `reference` if the judge needs something else. Needs a judge.

    Formula: stage sft: -sum_t log p(y_t | x, y_<t) / tokens. Stage dpo, of the sums over the tokens of an answer:
    -log sigmoid(beta * [(log p(c|x) - log p_sft(c|x)) - (log p(r|x) - log p_sft(r|x))]), a mean over pairs.

    Paper: Tunstall et al. 2023, "Zephyr: Direct Distillation of LM Alignment" (arXiv 2310.16944).
    """

    paper: ClassVar[str] = "Tunstall et al. 2023, arXiv 2310.16944"
    stages: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"name": "sft", "method": "sft", "train": {"epochs": 1.0}},
        {
            "name": "dpo",
            "method": "dpo",
            "curate": [{"name": "pairs", "n": 4, "rejected": "random"}],
            "objective": {"beta": 0.01},
            "train": {"epochs": 1.0},
        },
    )
    rates: ClassVar[Mapping[str, tuple[float, float]]] = {"dpo": (5e-7, 5e-6)}


class SFTThenDPO(Preset):
    """SFT, then DPO on pairs, with the SFT model as reference. [Rafailov et al. 2023, arXiv 2305.18290]

    What it does: stage `sft` trains on the answers, stage `dpo` on pairs of a chosen and a rejected answer, starting
    from the model of stage `sft`, which is its reference too. The knobs are those of the two methods.

    When it helps: there are preferences as well as answers to copy; the DPO paper begins with SFT on the chosen answers
    so that the reference knows what the pairs look like. When it fails: pairs unlike what the SFT model says teach
    little (then let it answer itself: `zephyr`).

    Columns: an answer for stage `sft`; `chosen` and `rejected` for stage `dpo`, which is usually another file:
    `stages: {dpo: {data: {train: pairs.jsonl}}}`. Laboratory skills have both.

    Formula: as of `sft` and `dpo`, with p_ref in `dpo` the model of stage `sft`.

    Paper: Rafailov et al. 2023, "Direct Preference Optimization" (arXiv 2305.18290).
    """

    paper: ClassVar[str] = "Rafailov et al. 2023, arXiv 2305.18290"
    stages: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"name": "sft", "method": "sft"},
        {"name": "dpo", "method": "dpo"},
    )
