"""Every method by axis and name. A value is "module:Class"; it is imported on first use, so that listing is instant."""

from __future__ import annotations

import importlib
import importlib.util

from holdfast.axes.elsewhere import method_elsewhere
from holdfast.axes.method import Method
from holdfast.core.spelling import nearest
from holdfast.errors import UserError

REGISTRY: dict[str, dict[str, str]] = {
    "curators": {
        "gold": "holdfast.methods.curators.gold:Gold",
        "s3ft": "holdfast.methods.curators.s3ft:S3FT",
        "ssr": "holdfast.methods.curators.ssr:SSR",
        "sdft": "holdfast.methods.curators.sdft:SDFT",
        "rft": "holdfast.methods.curators.rft:RFT",
        "pairs": "holdfast.methods.curators.pairs:Pairs",
        "replay": "holdfast.methods.curators.replay:Replay",
    },
    "objectives": {
        "sft": "holdfast.methods.objectives.likelihood.sft:SFT",
        "ual": "holdfast.methods.objectives.likelihood.ual:UAL",
        "dft": "holdfast.methods.objectives.likelihood.dft:DFT",
        "anchor": "holdfast.methods.objectives.likelihood.anchor:Anchor",
        "prompt_distillation": "holdfast.methods.objectives.distillation.prompt_distillation:PromptDistillation",
        "neftune": "holdfast.methods.objectives.likelihood.neftune:NEFTune",
        "ift": "holdfast.methods.objectives.likelihood.ift:IFT",
        "dpo": "holdfast.methods.objectives.preference.dpo:DPO",
        "ipo": "holdfast.methods.objectives.preference.ipo:IPO",
        "geometric": "holdfast.methods.objectives.preference.geometric:Geometric",
        "ada_dpo": "holdfast.methods.objectives.preference.ada_dpo:AdaDPO",
        "davir_dpo": "holdfast.methods.objectives.preference.davir_dpo:DavIRDPO",
        "rpo": "holdfast.methods.objectives.preference.rpo:RPO",
        "tis_dpo": "holdfast.methods.objectives.preference.tis_dpo:TISDPO",
        "fpo": "holdfast.methods.objectives.preference.fpo:FPO",
        "cpo": "holdfast.methods.objectives.preference.cpo:CPO",
        "simpo": "holdfast.methods.objectives.preference.simpo:SimPO",
        "orpo": "holdfast.methods.objectives.preference.orpo:ORPO",
        "asft": "holdfast.methods.objectives.preference.asft:ASFT",
        "tpo": "holdfast.methods.objectives.preference.tpo:TPO",
        "tpo_l": "holdfast.methods.objectives.preference.tpo_l:TPOL",
        "grpo": "holdfast.methods.objectives.scored.grpo:GRPO",
        "kto": "holdfast.methods.objectives.scored.kto:KTO",
        "una": "holdfast.methods.objectives.scored.una:UNA",
        "uft": "holdfast.methods.objectives.scored.uft:UFT",
        "tfew": "holdfast.methods.objectives.likelihood.tfew:TFew",
    },
    "tuners": {
        "full": "holdfast.methods.tuners.full:Full",
        "lora": "holdfast.methods.tuners.lora:LoRA",
        "half": "holdfast.methods.tuners.half:Half",
    },
    "optimizers": {
        "adamw": "holdfast.methods.optimizers.adamw:AdamW",
        "lomo": "holdfast.methods.optimizers.lomo:LOMO",
    },
    "inference": {
        "dial": "holdfast.methods.inference.dial:Dial",
    },
    "presets": {
        "sft_then_dpo": "holdfast.methods.presets:SFTThenDPO",
        "zephyr": "holdfast.methods.presets:Zephyr",
    },
    "judges": {
        "exact": "holdfast.methods.judges.exact:Exact",
        "number": "holdfast.methods.judges.number:Number",
        "choice": "holdfast.methods.judges.choice:Choice",
        "overlap": "holdfast.methods.judges.overlap:Overlap",
        "code": "holdfast.methods.judges.code:Code",
        "llm": "holdfast.methods.judges.llm:LLM",
        "python": "holdfast.methods.judges.python:Python",
        "lab": "holdfast.skills.base:SkillJudge",
    },
}


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
