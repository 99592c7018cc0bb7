"""The field's names for methods that are others with some knobs set."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, create_model

from holdfast.axes.method import Method

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Variant(NamedTuple):
    """A name of the field for a method with some of its knobs set; without knobs, another name of the same.

    Args:
        of: The method, by its name in the registry.
        summary: One line: what it is. The paper stands beside it.
        paper: Authors, year, arXiv number.
        knobs: What is set. A word or a switch makes the variant what it is and cannot be set otherwise; a number is the
            default of its paper.
        beside: What its paper does besides and the method does not; a sentence for the page.
        brings: What else a method of this name chooses, by the recipe's key.
        settings: Dotted settings of the recipe that its paper goes with, elsewhere than in its knobs; their defaults.
    """

    of: str
    summary: str
    paper: str
    knobs: Mapping[str, Any] = NOTHING
    beside: str = ""
    settings: Mapping[str, Any] = NOTHING
    brings: Mapping[str, str] = NOTHING


KIRKPATRICK = "Kirkpatrick et al. 2017, arXiv 1612.00796"
FURUTA = "Furuta et al. 2024, arXiv 2409.06691"

VARIANTS: Mapping[str, Mapping[str, Variant]] = {
    "objectives": {
        "ewc": Variant(
            "anchor", "Elastic weight consolidation: weights that matter to what the model says are held.", KIRKPATRICK,
            {"penalty": "ewc"}, "The authors' Fisher information is of old data; here it is of the training rows.",
        ),
        "l2sp": Variant(
            "anchor", "Weights are pulled back to where they began.", "Li et al. 2018, arXiv 1802.01483",
            {"penalty": "l2sp"}, "The authors choose the strength by validation.",
        ),
        "lwf": Variant(
            "anchor", "Learning without forgetting: what the untouched model says of the new rows is held.",
            "Li and Hoiem 2016, arXiv 1606.09282", {"penalty": "kl"},
            "The authors distil old heads at temperature 2; a language model has one head, held at temperature 1.",
        ),
        "gspo": Variant(
            "grpo", "Group sequence policy optimisation: an answer has one ratio, which is clipped.",
            "Zheng et al. 2025, arXiv 2507.18071",
            {"level": "sequence", "clip": 3e-4, "clip_high": 4e-4, "beta": 0.0},
        ),
        "dapo": Variant(
            "grpo", "Every token counts alike, and ratios are clipped later above than below.",
            "Yu et al. 2025, arXiv 2503.14476", {"reduction": "token", "clip_high": 0.28, "beta": 0.0},
            "The authors also draw anew for groups of equal scores, and lower the scores of overlong answers.",
        ),
        "dr_grpo": Variant(
            "grpo", "Group-relative policy optimisation without the bias of lengths and deviations.",
            "Liu et al. 2025, arXiv 2503.20783", {"reduction": "constant", "scale": False, "beta": 0.0},
        ),
        "cispo": Variant(
            "policy_gradient", "The weights of tokens are clipped and not their loss, so that all go on learning.",
            "MiniMax 2025, arXiv 2506.13585", {"surrogate": "cispo"},
        ),
        "online_dapo": Variant(
            "policy_gradient", "DAPO online: every token counts alike, prompts are drawn until enough teach something.",
            "Yu et al. 2025, arXiv 2503.14476", {"clip_high": 0.28},
            settings={"online.refill": 3, "online.overlong": 0.2},
        ),
        "online_dr_grpo": Variant(
            "policy_gradient", "Dr. GRPO online: neither lengths nor deviations weigh an answer.",
            "Liu et al. 2025, arXiv 2503.20783", {"reduction": "constant"}, settings={"credit.scale": "none"},
        ),
        "online_gspo": Variant(
            "policy_gradient", "GSPO online: an answer has one ratio, which is clipped.",
            "Zheng et al. 2025, arXiv 2507.18071",
            {"level": "sequence", "reduction": "sequence", "clip": 3e-4, "clip_high": 4e-4},
        ),
        "cdpo": Variant(
            "dpo", "Conservative DPO: some pairs are thought to be labelled the wrong way.",
            "Mitchell 2023, A note on DPO with noisy preferences", {"loss": "sigmoid", "label_smoothing": 0.1},
        ),
        "robust_dpo": Variant(
            "dpo", "DPO without the bias of pairs labelled the wrong way, whose share is known.",
            "Chowdhury et al. 2024, arXiv 2403.00409", {"loss": "robust", "label_smoothing": 0.1},
        ),
        "hinge": Variant(
            "dpo", "Pairs up to a margin and no further, measured against the reference.",
            "Zhao et al. 2023, arXiv 2305.10425", {"loss": "hinge"},
            "The authors' hinge has no reference; with one it is also the loss of Liu et al. 2023 (arXiv 2309.06657).",
        ),
        "dpo_norm": Variant(
            "dpo", "DPO of means per token, so that long answers do not dominate.",
            "Lambert et al. 2024, arXiv 2411.15124", {"loss": "sigmoid_norm"},
        ),
        "gdpo": Variant("geometric", "DPO of pairs with soft labels.", FURUTA, {"form": "gdpo"}),
        "gipo": Variant("geometric", "IPO of pairs with soft labels.", FURUTA, {"form": "gipo"}),
        "gropo": Variant("geometric", "ROPO of pairs with soft labels.", FURUTA, {"form": "gropo"}),
    },
    "credits": {
        "online_grpo": Variant(
            "group", "GRPO online: an answer is worth how much better than its group it is.",
            "Shao et al. 2024, arXiv 2402.03300", {"scale": "group"},
        ),
        "online_dpo": Variant(
            "group", "Online DPO: the best and the worst of the model's own answers are a pair, round by round.",
            "Guo et al. 2024, arXiv 2402.04792", settings={"online.n": 2},
            brings={"objective": "dpo", "tuner": "lora"},  # whose base, switched off, is the reference of new answers
        ),
        "raft": Variant(
            "best", "Reward-ranked fine-tuning: the best of the model's own answers are taught, round by round.",
            "Dong et al. 2023, arXiv 2304.06767",
            settings={"online.n": 5, "sampling.temperature": 0.85}, brings={"objective": "sft"},
        ),
        "rloo": Variant(
            "loo", "REINFORCE leave-one-out: an answer is worth how much better than the others it is.",
            "Ahmadian et al. 2024, arXiv 2402.14740",
        ),
        "reinforce_pp": Variant(
            "batch", "REINFORCE++: what is still to come, against the whole round.",
            "Hu et al. 2025, arXiv 2501.03262",
        ),
        "ppo": Variant(
            "gae", "Proximal policy optimisation: better than a value head expected.",
            "Schulman et al. 2017, arXiv 1707.06347",
        ),
    },
    "tuners": {
        "position_interpolation": Variant(
            "yarn", "A longer context by all rotary positions divided.", "Chen et al. 2023, arXiv 2306.15595",
            {"positions": "linear"},
        ),
        "hft": Variant("half", "Half fine-tuning.", "Hui et al. 2024, arXiv 2404.18466"),
        "dora": Variant(
            "lora", "Low-rank updates of directions beside trained magnitudes.", "Liu et al. 2024, arXiv 2402.09353",
            {"dora": True},
        ),
        "rslora": Variant(
            "lora", "Low-rank updates scaled by the square root of the rank.", "Kalajdzievski 2023, arXiv 2312.03732",
            {"rslora": True},
        ),
        "lora_plus": Variant(
            "lora", "Low-rank updates whose B learns sixteen times as fast as A.",
            "Hayou et al. 2024, arXiv 2402.12354", {"alpha": 256.0},
            "A rate of B that is 16 times that of A is, under Adam, an alpha 16 times as large: Adam's steps do not "
            "depend on the size of gradients, so B in units of 1/16 makes them 16 times as long. Another ratio is "
            "another alpha. Under optimizers whose steps follow the gradient (sgd, lomo) it is not the same.",
        ),
        "pissa": Variant(
            "lora", "Low-rank updates that start as what is largest in the weights.",
            "Meng et al. 2024, arXiv 2404.02948", {"init": "pissa", "alpha": 8.0},
            "The authors' alpha is the rank, as here. They take the start out of the weights; here it is taken off "
            "beside them, which is the same sum, and the base is never changed.",
        ),
        "qlora": Variant(
            "lora", "Low-rank updates beside frozen weights in 4 bits.", "Dettmers et al. 2023, arXiv 2305.14314",
            {"base_bits": 4},
            "The authors adapt all linear maps with rank 64 and page the optimizer's state; the rank here is lora's.",
        ),
    },
    "optimizers": {
        "adamw_8bit": Variant(
            "adamw", "AdamW whose two states are held in 8 bits.", "Dettmers et al. 2021, arXiv 2110.02861",
            {"states": "8bit"}, "The authors also give embeddings a norm of their own and states in 32 bits.",
        ),
    },
    "inference": {
        "wise_ft": Variant(
            "dial", "Weight-space ensemble of base and tuned model.", "Wortsman et al. 2021, arXiv 2109.01903",
        ),
        "ties": Variant(
            "combine", "Task vectors trimmed, one sign elected for each weight, those that agree averaged.",
            "Yadav et al. 2023, arXiv 2306.01708", {"elect": True, "density": 0.2, "scale": 1.0},
        ),
        "dexperts": Variant(
            "proxy", "A language model steered by one of what is wanted, and away from one of what is not.",
            "Liu et al. 2021, arXiv 2105.03023", {"alpha": 2.0},
            "The authors first cut the model's tokens to a nucleus of 0.9; expert and antiexpert are tuned on good and "
            "on bad texts.",
        ),
        "contrastive": Variant(
            "proxy", "What a large model knows and a small one of its family does not.",
            "Li et al. 2022, arXiv 2210.15097", {"weight": 0.0, "plausible": 0.1},
            "The authors search with five beams, the antiexpert at a temperature of 0.5 to 1; here tokens are chosen "
            "one by one, as by O'Brien and Lewis 2023 (arXiv 2309.09117), whose form is weight 1 and alpha 0.5.",
        ),
    },
}  # fmt: skip
"""Axis, name, variant."""


def make_variant(name: str, base: type[Method], variant: Variant) -> type[Method]:
    """The class of a variant: its method's with other defaults, so that pages, checks and dumps need no special case.

    It is called like its method's class, because it does the same: journals and checkpoints of the two are one.
    """
    fields: dict[str, Any] = {}
    for knob, value in variant.knobs.items():
        info = base.model_fields[knob]
        number = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        kind = Literal[value] if isinstance(value, (str, bool)) else number
        fields[knob] = (kind, Field(value, description=info.description))
    cls = create_model(
        base.__name__, __base__=base, __module__=base.__module__, __doc__=_format_page(base, variant), **fields
    )
    cls.paper, cls.variant = variant.paper, name
    return cls


def _format_page(base: type[Method], variant: Variant) -> str:
    knobs = ", ".join(f"{key}: {str(value).lower()}" for key, value in variant.knobs.items())
    what = f"This is `{variant.of}` with {knobs}" if knobs else f"This is another name of `{variant.of}`"
    first = f"{variant.summary} [{variant.paper.replace('arXiv ', '')}]"
    rest = base.reference_page().partition("\n")[2]
    return f"{first}\n\n{what}, whose page follows. {variant.beside}".rstrip() + f"\n{rest}"
