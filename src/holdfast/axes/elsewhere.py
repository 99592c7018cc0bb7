"""Methods of other tools that are not here, and what is there instead."""

from __future__ import annotations

METHODS_ELSEWHERE: dict[str, str] = {
    "rlhf": "ppo, rloo and online_grpo learn from rewards, dpo from preferences",
    "rm": "objective reward trains a reward model; dpo and its kin learn from the same pairs directly",
    "galore": "adalomo is the optimizer that holds neither gradients nor states of the weights' size",
    "llama-adapter": "prefix trains keys and values in front of every layer's, as it does",
    **dict.fromkeys(["paged_adamw_8bit", "paged_adamw_32bit", "adamw_4bit"],
                    "there are adamw, adamw_8bit and lomo, which holds no states at all"),
    **dict.fromkeys(["lion", "lion_8bit", "rmsprop", "adagrad", "adadelta", "radam", "nadam", "adamax", "rprop"],
                    "a class of PyTorch or of a library goes by its path, as in optimizer: torch.optim.RAdam"),
}  # fmt: skip
"""Names of methods that are not here: the nearest that is, or why there is none."""


def method_elsewhere(name: str) -> str:
    """Why a method of other tools is not here, as the end of a sentence; "" for other names."""
    reason = METHODS_ELSEWHERE.get(name.lower())
    return f": {reason}" if reason else ""
