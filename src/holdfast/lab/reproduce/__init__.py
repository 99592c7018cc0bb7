"""`holdfast reproduce NAME`: a paper's claim at laboratory scale, its numbers beside ours, and an honest verdict."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.core.progress import Progress
    from holdfast.lab.reproduce.base import Claim, Study

CLAIMS: dict[str, str] = {
    "s3ft": "holdfast.lab.reproduce.selective:S3FT",
    "ssr": "holdfast.lab.reproduce.selective:SSR",
    "sdft": "holdfast.lab.reproduce.selective:SDFT",
    "rft": "holdfast.lab.reproduce.graded_answers:RFT",
    "replay": "holdfast.lab.reproduce.sampled:REPLAY",
    "dedup": "holdfast.lab.reproduce.chosen_rows:DEDUP",
    "decontaminate": "holdfast.lab.reproduce.chosen_rows:DECONTAMINATE",
    "filter": "holdfast.lab.reproduce.chosen_rows:FILTER",
    "flan": "holdfast.lab.reproduce.chosen_rows:FLAN",
    "self_instruct": "holdfast.lab.reproduce.written_rows:SELF_INSTRUCT",
    "generate": "holdfast.lab.reproduce.written_rows:GENERATE",
    "prompt2model": "holdfast.lab.reproduce.written_rows:PROMPT2MODEL",
    "pairs": "holdfast.lab.reproduce.own_pairs:OWN_RANKED",
    "label_noise": "holdfast.lab.reproduce.own_pairs:LABEL_NOISE",
    "grpo": "holdfast.lab.reproduce.graded_pairs:GRPO",
    "group": "holdfast.lab.reproduce.online:GROUP",
    "loo": "holdfast.lab.reproduce.online:LOO",
    "batch": "holdfast.lab.reproduce.online:BATCH",
    "gae": "holdfast.lab.reproduce.online:VALUES",
    "max_rl": "holdfast.lab.reproduce.online:MAX_RL",
    "best": "holdfast.lab.reproduce.online:BEST",
    "group-online-dpo": "holdfast.lab.reproduce.online:ONLINE_DPO",
    "policy_gradient": "holdfast.lab.reproduce.online:CLIPPED",
    "sft-memorizes": "holdfast.lab.reproduce.memorizes:POINTS",
    "sft-memorizes-route": "holdfast.lab.reproduce.memorizes:ROUTE",
    "sft-memorizes-pictures": "holdfast.lab.reproduce.memorizes:PICTURES",
    "zephyr": "holdfast.lab.reproduce.graded_answers:ZEPHYR",
    "ift": "holdfast.lab.reproduce.tabular_likelihood:IFT",
    "ift-story": "holdfast.lab.reproduce.graded_answers:IFT",
    "ual": "holdfast.lab.reproduce.tabular_likelihood:UAL",
    "dft": "holdfast.lab.reproduce.distribution:DFT",
    "anchor": "holdfast.lab.reproduce.distribution:ANCHOR",
    "prompt_distillation": "holdfast.lab.reproduce.distribution:PROMPT_DISTILLATION",
    "neftune": "holdfast.lab.reproduce.graded_answers:NEFTUNE",
    "dpo": "holdfast.lab.reproduce.losses:DPO",
    "rpo": "holdfast.lab.reproduce.graded_pairs:RPO",
    "rpo-table": "holdfast.lab.reproduce.learned_pairs:RPO",
    "tis_dpo": "holdfast.lab.reproduce.learned_pairs:TIS_DPO",
    "fpo": "holdfast.lab.reproduce.graded_pairs:FPO",
    "reward": "holdfast.lab.reproduce.rewards:REWARD",
    "ipo": "holdfast.lab.reproduce.tabular_pairs:IPO",
    "geometric": "holdfast.lab.reproduce.tabular_pairs:GEOMETRIC",
    "ada_dpo": "holdfast.lab.reproduce.tabular_pairs:ADA_DPO",
    "davir_dpo": "holdfast.lab.reproduce.tabular_pairs:DAVIR_DPO",
    "cpo": "holdfast.lab.reproduce.without_reference:CPO",
    "simpo": "holdfast.lab.reproduce.without_reference:SIMPO",
    "orpo": "holdfast.lab.reproduce.without_reference:ORPO",
    "asft": "holdfast.lab.reproduce.graded_pairs:ASFT",
    "tpo": "holdfast.lab.reproduce.graded_answers:TPO",
    "tpo_l": "holdfast.lab.reproduce.without_reference:TPO_L",
    "kto": "holdfast.lab.reproduce.without_reference:KTO",
    "una": "holdfast.lab.reproduce.without_reference:UNA",
    "uft": "holdfast.lab.reproduce.graded_answers:UFT",
    "uft-table": "holdfast.lab.reproduce.joint:UFT",
    "uft-scores": "holdfast.lab.reproduce.joint:UFT_SCORES",
    "tfew": "holdfast.lab.reproduce.without_reference:TFEW",
    "half": "holdfast.lab.reproduce.weights:HALF",
    "half-sequence": "holdfast.lab.reproduce.sequence:HALF",
    "longlora": "holdfast.lab.reproduce.long_context:LONGLORA",
    "yarn": "holdfast.lab.reproduce.long_context:YARN",
    "promot": "holdfast.lab.reproduce.fixed_format:PROMOT",
    "freeze": "holdfast.lab.reproduce.chosen_weights:FREEZE",
    "lisa": "holdfast.lab.reproduce.chosen_weights:LISA",
    "surgical": "holdfast.lab.reproduce.chosen_weights:SURGICAL",
    "bitfit": "holdfast.lab.reproduce.chosen_weights:BITFIT",
    "lora": "holdfast.lab.reproduce.weights:LORA",
    "adapter": "holdfast.lab.reproduce.added_weights:ADAPTER",
    "prompt": "holdfast.lab.reproduce.added_weights:PROMPT",
    "ptuning": "holdfast.lab.reproduce.added_weights:PTUNING",
    "adapter-rows": "holdfast.lab.reproduce.added_weights:BITFIT_ADAPTER_FULL",
    "lora-modules": "holdfast.lab.reproduce.added_weights:LORA_MODULES",
    "peft": "holdfast.lab.reproduce.added_weights:PEFT",
    "prefix": "holdfast.lab.reproduce.prefix_limits:PREFIX",
    "ia3": "holdfast.lab.reproduce.added_weights:IA3",
    "lomo": "holdfast.lab.reproduce.weights:LOMO",
    "lomo-memory": "holdfast.lab.reproduce.from_scratch:LOMO",
    "adalomo": "holdfast.lab.reproduce.weights:ADALOMO",
    "adalomo-memory": "holdfast.lab.reproduce.from_scratch:ADALOMO",
    "adafactor": "holdfast.lab.reproduce.weights:ADAFACTOR",
    "muon": "holdfast.lab.reproduce.from_scratch:MUON",
    "spafl": "holdfast.lab.reproduce.federated:SPAFL",
    "dial": "holdfast.lab.reproduce.weights:DIAL",
    "calibration": "holdfast.lab.reproduce.at_the_logits:CALIBRATION",
    "proxy": "holdfast.lab.reproduce.at_the_logits:PROXY",
    "self_consistency": "holdfast.lab.reproduce.several_answers:SELF_CONSISTENCY",
    "best_of_n": "holdfast.lab.reproduce.several_answers:BEST_OF_N",
    "reflexion": "holdfast.lab.reproduce.several_answers:REFLEXION",
    "rag": "holdfast.lab.reproduce.retrieved:RAG",
    "hykge": "holdfast.lab.reproduce.retrieved:HYKGE",
    "combine": "holdfast.lab.reproduce.at_the_logits:COMBINE",
    "pretty": "holdfast.lab.reproduce.at_the_logits:PRETTY",
    "delift": "holdfast.lab.reproduce.selected_rows:DELIFT",
    "davir": "holdfast.lab.reproduce.selected_rows:DAVIR",
    "lima": "holdfast.lab.reproduce.selected_rows:LIMA",
    "ifd": "holdfast.lab.reproduce.selected_rows:IFD",
    "less": "holdfast.lab.reproduce.selected_rows:LESS",
    "memory_levels": "holdfast.lab.reproduce.known_facts:MEMORY_LEVELS",
    "memory": "holdfast.lab.reproduce.known_facts:MEMORY",
    "emergence": "holdfast.lab.reproduce.emergence:EMERGENCE",
    "emergence-models": "holdfast.lab.reproduce.emergence_models:EMERGENCE_MODELS",
    "autoft": "holdfast.lab.reproduce.searched:AUTOFT",
    "sft-search": "holdfast.lab.reproduce.searched:SEARCH",
    "prefix_limits": "holdfast.lab.reproduce.prefix_limits:PATTERNS",
    "drift": "holdfast.lab.reproduce.inside_models:DRIFT",
    "spectrum": "holdfast.lab.reproduce.inside_models:SPECTRUM",
    "mend": "holdfast.lab.reproduce.inside_models:MEND",
    "landscape": "holdfast.lab.reproduce.inside_models:LANDSCAPE",
    "stability": "holdfast.lab.reproduce.inside_models:STABILITY",
    "stability-mitigation": "holdfast.lab.reproduce.mitigations:SIDE_BY_SIDE",
    "lost_and_found": "holdfast.lab.reproduce.inside_models:LOST_AND_FOUND",
    "sft-facts": "holdfast.lab.reproduce.known_facts:FORM_AND_FACTS",
}
"""Method, or method-something, to its claim, "module:NAME"; imported on first use."""


def claim_of(name: str) -> Claim | Study:
    """The claim registered for a method.

    Raises:
        UserError: If there is none.
    """
    if name not in CLAIMS:
        raise UserError(f"{name} has no reproduction{suggest_name(name, CLAIMS)}")
    module, _, attribute = CLAIMS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def list_claims() -> dict[str, str]:
    """Every reproduction and what it claims."""
    return {name: claim_of(name).claim for name in CLAIMS}


def reproduce(
    name: str,
    *,
    seeds: int = 3,
    out: str | Path = "runs/reproduce",
    on: str | Path | None = None,
    data: str | Path | None = None,
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Run one claim: in the laboratory, or with the same arms on a model and rows of one's own.

    Args:
        on: Model, as a recipe names it.
        data: Recipe with the rows, tasks and judge that the claim is asked of; or a folder with one.
    Returns:
        `{"name", "claim", "paper", "rows": [{"what", "paper", "ours", "low", "high"}], "points", "held", "verdict"}`.
    Raises:
        UserError: If there is no such claim, one of `on` and `data` is missing, or the claim needs the laboratory.
    """
    if (on is None) != (data is None):
        raise UserError("--on MODEL and --data RECIPE go together: which model, and which rows and tasks")
    claim = claim_of(name)
    if on is not None and data is not None:
        from holdfast.lab.reproduce.own_work import run_on_work

        return run_on_work(name, claim, on, data, seeds=seeds, out=Path(out), ui=ui)
    from holdfast.lab.reproduce.base import run_claim

    return run_claim(name, claim, seeds=seeds, out=Path(out), ui=ui)
