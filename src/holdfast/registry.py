"""Every method by axis and name. A value is "module:Class"; it is imported on first use, so that listing is instant."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable

from holdfast.errors import UserError
from holdfast.method import Method
from holdfast.recipe_peers import method_elsewhere

REGISTRY: dict[str, dict[str, str]] = {
    "curators": {
        "gold": "holdfast.curators.gold:Gold",
        "s3ft": "holdfast.curators.s3ft:S3FT",
        "ssr": "holdfast.curators.ssr:SSR",
        "sdft": "holdfast.curators.sdft:SDFT",
        "rft": "holdfast.curators.rft:RFT",
        "pairs": "holdfast.curators.pairs:Pairs",
        "replay": "holdfast.curators.replay:Replay",
    },
    "objectives": {
        "sft": "holdfast.objectives.sft:SFT",
        "ual": "holdfast.objectives.ual:UAL",
        "dft": "holdfast.objectives.dft:DFT",
        "anchor": "holdfast.objectives.anchor:Anchor",
        "prompt_distillation": "holdfast.objectives.prompt_distillation:PromptDistillation",
        "neftune": "holdfast.objectives.neftune:NEFTune",
        "ift": "holdfast.objectives.ift:IFT",
        "dpo": "holdfast.objectives.dpo:DPO",
        "ipo": "holdfast.objectives.ipo:IPO",
        "geometric": "holdfast.objectives.geometric:Geometric",
        "ada_dpo": "holdfast.objectives.ada_dpo:AdaDPO",
        "davir_dpo": "holdfast.objectives.davir_dpo:DavIRDPO",
        "rpo": "holdfast.objectives.rpo:RPO",
        "tis_dpo": "holdfast.objectives.tis_dpo:TISDPO",
        "fpo": "holdfast.objectives.fpo:FPO",
        "cpo": "holdfast.objectives.cpo:CPO",
        "simpo": "holdfast.objectives.simpo:SimPO",
        "orpo": "holdfast.objectives.orpo:ORPO",
        "asft": "holdfast.objectives.asft:ASFT",
        "tpo": "holdfast.objectives.tpo:TPO",
        "tpo_l": "holdfast.objectives.tpo_l:TPOL",
        "grpo": "holdfast.objectives.grpo:GRPO",
        "kto": "holdfast.objectives.kto:KTO",
        "una": "holdfast.objectives.una:UNA",
        "uft": "holdfast.objectives.uft:UFT",
        "tfew": "holdfast.objectives.tfew:TFew",
    },
    "tuners": {
        "full": "holdfast.tuners.full:Full",
        "lora": "holdfast.tuners.lora:LoRA",
        "half": "holdfast.tuners.half:Half",
    },
    "optimizers": {
        "adamw": "holdfast.optimizers.adamw:AdamW",
        "lomo": "holdfast.optimizers.lomo:LOMO",
    },
    "inference": {
        "dial": "holdfast.inference.dial:Dial",
    },
    "presets": {
        "sft_then_dpo": "holdfast.presets:SFTThenDPO",
        "zephyr": "holdfast.presets:Zephyr",
    },
    "judges": {
        "exact": "holdfast.judges.exact:Exact",
        "number": "holdfast.judges.number:Number",
        "choice": "holdfast.judges.choice:Choice",
        "overlap": "holdfast.judges.overlap:Overlap",
        "code": "holdfast.judges.code:Code",
        "llm": "holdfast.judges.llm:LLM",
        "python": "holdfast.judges.python:Python",
        "lab": "holdfast.lab.skills.base:SkillJudge",
    },
}


LONGEST_NAME = 100
"""Characters of a name that may be a misspelt one; comparing takes time that grows with its square."""
MOST_NAMES = 1000
"""Names that are compared and shown."""


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean X?" for the closest of `names`, or the list of all when none is close."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names[:MOST_NAMES], n=1, cutoff=0.6) if len(name) <= LONGEST_NAME else []
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names[:MOST_NAMES])}{more}"


def find(axis: str, name: str) -> type[Method]:
    """The class registered as `name` on `axis`, imported now; `package.module:Class` is a class of the user's own.

    Raises:
        UserError: If there is no such name (the nearest is suggested), or no such class.
    """
    if name in REGISTRY[axis]:
        name = REGISTRY[axis][name]
    elif ":" not in name:
        raise UserError(f"{name} is not one of the {axis}{method_elsewhere(name) or nearest(name, REGISTRY[axis])}")
    module, _, attribute = name.partition(":")
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise UserError(f"{name}: there is no module {module}; is its folder on PYTHONPATH?")
    found = getattr(importlib.import_module(module), attribute, None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"{name} is not a Method class; see `holdfast show` of any of the {axis} for an example")
    return found


def name_of(method: Method | type[Method]) -> str:
    """The inverse of `find`: the registered name of a method, or `package.module:Class`."""
    cls = method if isinstance(method, type) else type(method)
    target = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for names in REGISTRY.values() for name, path in names.items() if path == target), target)
