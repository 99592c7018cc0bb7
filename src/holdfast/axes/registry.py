"""Every method by axis and name. A value is "module:Class"; it is imported on first use, so that listing is instant.

Beside these there are the field's names for some of them with knobs set (`variants`), and classes of the user's own, as
`package.module:Class` or by a name that an installed package gives them (`own_class`).
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from holdfast.axes.axis import AXES, BY_PLURAL, Axis
from holdfast.axes.elsewhere import method_elsewhere
from holdfast.axes.method import Method
from holdfast.axes.own_class import list_plugins, load_class
from holdfast.axes.variants import VARIANTS, Variant, make_variant
from holdfast.core.source_hash import is_installed, source_hash
from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError

REGISTRY: dict[str, dict[str, str]] = {
    "curators": {
        "gold": "holdfast.methods.curators.gold:Gold",
        "s3ft": "holdfast.methods.curators.s3ft:S3FT",
        "ssr": "holdfast.methods.curators.ssr:SSR",
        "sdft": "holdfast.methods.curators.sdft:SDFT",
        "rft": "holdfast.methods.curators.rft:RFT",
        "pairs": "holdfast.methods.curators.pairs:Pairs",
        "label_noise": "holdfast.methods.curators.label_noise:LabelNoise",
        "replay": "holdfast.methods.curators.replay:Replay",
        "delift": "holdfast.methods.curators.delift:DELIFT",
        "davir": "holdfast.methods.curators.davir:DavIR",
        "ifd": "holdfast.methods.curators.ifd:IFD",
        "less": "holdfast.methods.curators.less:LESS",
        "lima": "holdfast.methods.curators.lima:LIMA",
        "memory_levels": "holdfast.methods.curators.memory_levels:MemoryLevels",
        "dedup": "holdfast.methods.curators.dedup:Dedup",
        "decontaminate": "holdfast.methods.curators.decontaminate:Decontaminate",
        "filter": "holdfast.methods.curators.filter:Filter",
        "flan": "holdfast.methods.curators.flan:Flan",
        "self_instruct": "holdfast.methods.curators.self_instruct:SelfInstruct",
        "generate": "holdfast.methods.curators.generate:Generate",
        "prompt2model": "holdfast.methods.curators.prompt2model:Prompt2Model",
    },
    "objectives": {
        "sft": "holdfast.methods.objectives.likelihood.sft:SFT",
        "ual": "holdfast.methods.objectives.likelihood.ual:UAL",
        "dft": "holdfast.methods.objectives.likelihood.dft:DFT",
        "anchor": "holdfast.methods.objectives.likelihood.anchor:Anchor",
        "autoft": "holdfast.methods.objectives.likelihood.autoft:AutoFT",
        "prompt_distillation": "holdfast.methods.objectives.distillation.prompt_distillation:PromptDistillation",
        "neftune": "holdfast.methods.objectives.likelihood.neftune:NEFTune",
        "ift": "holdfast.methods.objectives.likelihood.ift:IFT",
        "dpo": "holdfast.methods.objectives.preference.dpo:DPO",
        "reward": "holdfast.methods.objectives.preference.reward:Reward",
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
        "policy_gradient": "holdfast.methods.objectives.scored.policy_gradient:PolicyGradient",
        "kto": "holdfast.methods.objectives.scored.kto:KTO",
        "una": "holdfast.methods.objectives.scored.una:UNA",
        "uft": "holdfast.methods.objectives.scored.uft:UFT",
        "tfew": "holdfast.methods.objectives.likelihood.tfew:TFew",
    },
    "tuners": {
        "full": "holdfast.methods.tuners.full:Full",
        "lora": "holdfast.methods.tuners.lora:LoRA",
        "half": "holdfast.methods.tuners.half:Half",
        "spafl": "holdfast.methods.tuners.spafl:SpaFL",
        "freeze": "holdfast.methods.tuners.freeze:Freeze",
        "lisa": "holdfast.methods.tuners.lisa:LISA",
        "surgical": "holdfast.methods.tuners.surgical:Surgical",
        "promot": "holdfast.methods.tuners.promot:ProMoT",
        "longlora": "holdfast.methods.tuners.longlora:LongLoRA",
        "yarn": "holdfast.methods.tuners.yarn:YaRN",
        "bitfit": "holdfast.methods.tuners.bitfit:BitFit",
        "adapter": "holdfast.methods.tuners.adapter:Adapter",
        "ia3": "holdfast.methods.tuners.ia3:IA3",
        "prompt": "holdfast.methods.tuners.prompt:Prompt",
        "ptuning": "holdfast.methods.tuners.ptuning:PTuning",
        "peft": "holdfast.methods.tuners.peft_method:Peft",
        "prefix": "holdfast.methods.tuners.prefix:Prefix",
    },
    "optimizers": {
        "adamw": "holdfast.methods.optimizers.adamw:AdamW",
        "adafactor": "holdfast.methods.optimizers.adafactor:Adafactor",
        "sgd": "holdfast.methods.optimizers.sgd:SGD",
        "muon": "holdfast.methods.optimizers.muon:Muon",
        "lomo": "holdfast.methods.optimizers.lomo:LOMO",
        "adalomo": "holdfast.methods.optimizers.adalomo:AdaLomo",
    },
    "inference": {
        "dial": "holdfast.methods.inference.dial:Dial",
        "mend": "holdfast.methods.inference.mend:Mend",
        "calibration": "holdfast.methods.inference.calibration:Calibration",
        "combine": "holdfast.methods.inference.combine:Combine",
        "pretty": "holdfast.methods.inference.pretty:Pretty",
        "proxy": "holdfast.methods.inference.proxy:Proxy",
        "self_consistency": "holdfast.methods.inference.self_consistency:SelfConsistency",
        "best_of_n": "holdfast.methods.inference.best_of_n:BestOfN",
        "rag": "holdfast.methods.inference.rag:RAG",
        "hykge": "holdfast.methods.inference.hykge:HyKGE",
        "reflexion": "holdfast.methods.inference.reflexion:Reflexion",
    },
    "presets": {
        "sft_then_dpo": "holdfast.methods.presets:SFTThenDPO",
        "zephyr": "holdfast.methods.presets:Zephyr",
    },
    "credits": {
        "group": "holdfast.methods.credits.group:GroupCredit",
        "loo": "holdfast.methods.credits.leave_one_out:LeaveOneOut",
        "batch": "holdfast.methods.credits.batch:BatchCredit",
        "gae": "holdfast.methods.credits.gae:GAE",
        "best": "holdfast.methods.credits.best:BestCredit",
        "max_rl": "holdfast.methods.credits.max_rl:MaxRL",
    },
    "environments": {
        "judged": "holdfast.methods.environments.judged:JudgeEnvironment",
        "weighted": "holdfast.methods.environments.weighted:WeightedRewards",
        "gym": "holdfast.methods.environments.gym:GymEnvironment",
        "verifiers": "holdfast.methods.environments.verifiers:VerifiersEnvironment",
        "points": "holdfast.skills.points_game:PointsGame",
        "general_points": "holdfast.skills.general_points_game:GeneralPointsGame",
        "route": "holdfast.skills.route_walk:RouteWalk",
        "navigation": "holdfast.skills.navigation_walk:NavigationWalk",
        "lake": "holdfast.skills.lake_walk:LakeWalk",
        "revise": "holdfast.skills.sequential_revision:SequentialRevision",
    },
    "analyses": {
        "lost_and_found": "holdfast.methods.analyses.lost_and_found:LostAndFound",
        "drift": "holdfast.methods.analyses.drift:Drift",
        "spectrum": "holdfast.methods.analyses.spectrum:Spectrum",
        "landscape": "holdfast.methods.analyses.landscape:Landscape",
        "stability": "holdfast.methods.analyses.stability:Stability",
        "memory": "holdfast.methods.analyses.memory:Memory",
        "forms_facts": "holdfast.methods.analyses.forms_facts:FormsFacts",
        "emergence": "holdfast.methods.analyses.emergence:Emergence",
        "prefix_limits": "holdfast.methods.analyses.prefix_limits:PrefixLimits",
        "layer_change": "holdfast.methods.analyses.layer_change:LayerChange",
    },
    "judges": {
        "exact": "holdfast.methods.judges.exact:Exact",
        "number": "holdfast.methods.judges.number:Number",
        "choice": "holdfast.methods.judges.choice:Choice",
        "overlap": "holdfast.methods.judges.overlap:Overlap",
        "code": "holdfast.methods.judges.code:Code",
        "llm": "holdfast.methods.judges.llm:LLM",
        "python": "holdfast.methods.judges.python:Python",
        "reward_model": "holdfast.methods.judges.reward_model:RewardModelJudge",
        "lab": "holdfast.skills.base:SkillJudge",
    },
}


def method_names(axis: str) -> list[str]:
    """Every name of an axis that comes with the package: methods, each followed by its variants."""
    variants = VARIANTS.get(axis, {})
    return [n for name in REGISTRY[axis] for n in (name, *(v for v, variant in variants.items() if variant.of == name))]


def target_of(axis: str, name: str) -> str | None:
    """The "module:Class" behind a name or a variant of the package; `None` for a class of the user's own."""
    variant = VARIANTS.get(axis, {}).get(name)
    return REGISTRY[axis].get(variant.of if variant else name)


def find_method(axis: str, name: str) -> type[Method]:
    """The class called `name` on `axis`, imported now: of the package, of the user's own, of an installed package.

    Raises:
        UserError: If there is no such name (the nearest is suggested), no such class, or it belongs to another axis.
    """
    if target := target_of(axis, name):
        return _build_variant(axis, name) if name in VARIANTS.get(axis, {}) else _import_class(target)
    is_path = ":" in name or (axis == "optimizers" and "." in name)
    if not is_path and name not in list_plugins():
        hint = method_elsewhere(name) or suggest_name(name, method_names(axis))
        raise UserError(f"{name} is not one of the {BY_PLURAL[axis].plural_noun}{hint}")
    cls = load_class(name)
    home = axis_of(cls)
    if home is None or home.plural != axis:
        what = f"belongs to the {home.plural}; give it as `{home.key}`" if home else "is on no axis"
        raise UserError(f"{name} is not one of the {BY_PLURAL[axis].plural_noun}: it {what}")
    return cls


@cache
def _build_variant(axis: str, name: str) -> type[Method]:
    """One class for each variant, so that equal choices are equal."""
    variant = VARIANTS[axis][name]
    return make_variant(name, find_method(axis, variant.of), variant)


def home_of(name: str) -> Axis | None:
    """The axis of a name; `None` when nothing is called so.

    Raises:
        UserError: If it is a class of the user's own that cannot be imported, or is on no axis.
    """
    home = next((axis for axis in AXES if target_of(axis.plural, name)), None)
    if home is None and (":" in name or name in list_plugins()):
        home = axis_of(load_class(name))
        if home is None:
            raise UserError(f"{name} is on no axis: its class must derive from {', '.join(_contract_classes())}")
    return home


def axis_of(cls: type[Method]) -> Axis | None:
    """The axis whose contract a class fulfils."""
    return next((BY_PLURAL[plural] for plural, base in _contract_classes().items() if issubclass(cls, base)), None)


def _contract_classes() -> dict[str, type[Method]]:
    return {axis.plural: _import_class(axis.contract) for axis in AXES}


def _import_class(target: str) -> type[Method]:
    module, _, attribute = target.partition(":")
    cls: type[Method] = getattr(importlib.import_module(module), attribute)
    return cls


def name_of(method: Method | type[Method]) -> str:
    """The inverse of `find_method`: what a method is called, for a class of the user's own `package.module:Class`."""
    cls = method if isinstance(method, type) else type(method)
    if short_name := vars(cls).get("variant") or vars(cls).get("from_path"):
        return str(short_name)
    target = f"{cls.__module__}:{cls.__qualname__}"
    for lines in REGISTRY.values():
        for name, line in lines.items():
            if line == target:
                return name
    return next((name for name, targets in list_plugins().items() if targets == (target,)), target)


def variant_of(method: Method | type[Method]) -> Variant | None:
    """What a variant's class sets of another; `None` for any other class."""
    variant_name = vars(method if isinstance(method, type) else type(method)).get("variant", "")
    return next((variants[variant_name] for variants in VARIANTS.values() if variant_name in variants), None)


def identity_of(method: Method) -> list[Any]:
    """What makes two methods one: class, knobs and, unless the package ships the class, the hash of its source.

    A variant is the method that it is a name of.
    """
    cls = type(method)
    own = cls.__mro__[1] if vars(cls).get("variant") else cls
    return [name_of(own), method.model_dump(mode="json"), source_of(method)]


def source_of(method: Method) -> str | None:
    """The hash of the source of a class of the user's own; `None` for a class of the package, or of a library."""
    library_class = getattr(method, "library_class", None)
    if library_class is not None:
        return None if is_installed(library_class) else source_hash(library_class)
    return None if type(method).__module__.partition(".")[0] == "holdfast" else source_hash(type(method))
