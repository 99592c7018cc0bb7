"""Learning online from rewards: rounds in which the model answers as it is, one credit against another.

All arms play the same number of episodes on sums, of which the smaller model is right in four samples of five, and at
least once in eight on nearly all; what its answers are worth differs, and nothing else. On the card game, which was
asked first, no arm moved the target in 48 rounds: a search is not learned from 1,500 questions by so small a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.lab.reproduce.base import Claim, Figure, gain_and_loss, gain_of, loss_of
from holdfast.lab.reproduce.rule import gains_as_much, gains_more, loses_no_more

ROUNDS = 96

SUMS: dict[str, Any] = {
    "model": "lab-small",
    "data": {"train": "lab:sums"},
    "optimizer": {"learning_rate": 1e-4, "schedule": "constant"},
    "sampling": {"temperature": 1, "max_tokens": 24},
    "train": {"batch_tokens": "auto", "max_steps": ROUNDS},
    "evaluate": {"max_tokens": 24, "items": 400},
}
"""What the arms share: sums, whose judge is the reward."""


def play_rounds(method: str, *more: str, rounds: int = ROUNDS) -> Sequence[str]:
    """An arm of `rounds` rounds of 32 questions with 8 episodes each."""
    return [f"method={method}", f"online={{rounds: {rounds}, prompts: 32, n: 8}}", *more]


PLAY_GROUP = play_rounds("online_grpo")
PLAY_LOO = play_rounds("rloo")
PLAY_BATCH = play_rounds("reinforce_pp")
PLAY_GAE = play_rounds("ppo")
PLAY_MAX_RL = play_rounds("max_rl")
FEW, UPDATES = 24, 4
"""Rounds, and steps on the answers of each, where a claim is about these."""

GROUP = Claim(
    claim="Online, GRPO solves more than its base, and loses nothing elsewhere.",
    paper="Shao et al. 2024, arXiv 2402.03300",
    arms={"online_grpo": PLAY_GROUP},
    figures=(
        Figure("target, GRPO online", "82.9 to 88.2 (GSM8K)", gain_of("online_grpo")),
        Figure("lost elsewhere, GRPO online", "gains (CMATH 84.6 to 88.8)", loss_of("online_grpo")),
    ),
    expects=(gains_more("online_grpo"), loses_no_more("online_grpo")),
    common=SUMS,
)

LOO = Claim(
    claim="RLOO, without a value head and with one number for an answer, gains as much as PPO.",
    paper="Ahmadian et al. 2024, arXiv 2402.14740",
    arms={"ppo": PLAY_GAE, "rloo": PLAY_LOO},
    figures=gain_and_loss({"ppo": "67.6 % wins (TL;DR)", "rloo": "77.9 % wins (TL;DR)"}),
    expects=(gains_more("rloo"), gains_as_much("rloo", "ppo")),
    common=SUMS,
)

BATCH = Claim(
    claim="REINFORCE++, which compares an answer with the whole round, gains as much as GRPO, which compares it with "
    "its group.",
    paper="Hu et al. 2025, arXiv 2501.03262",
    arms={"online_grpo": PLAY_GROUP, "reinforce_pp": PLAY_BATCH},
    figures=gain_and_loss({"online_grpo": "not comparable", "reinforce_pp": "as GRPO in domain, more out of it"}),
    expects=(gains_more("reinforce_pp"), gains_as_much("reinforce_pp", "online_grpo")),
    common=SUMS,
)

VALUES = Claim(
    claim="PPO with a value head solves more than its base, and gains as much as group credit at equal budget.",
    paper="Schulman et al. 2017, arXiv 1707.06347; Schulman et al. 2015, arXiv 1506.02438",
    arms={"ppo": PLAY_GAE, "online_grpo": PLAY_GROUP},
    figures=gain_and_loss({"ppo": "not comparable", "online_grpo": "above PPO (GSM8K, DeepSeekMath figure 5)"}),
    expects=(gains_more("ppo"), gains_as_much("ppo", "online_grpo")),
    common=SUMS,
)

MAX_RL = Claim(
    claim="Differences in units of the group's mean gain as much as differences in units of its deviation.",
    paper="MaxRL, 2026, arXiv 2602.02710",
    arms={"max_rl": PLAY_MAX_RL, "online_grpo": PLAY_GROUP},
    figures=gain_and_loss({"max_rl": "above GRPO in pass@k", "online_grpo": "not comparable"}),
    expects=(gains_more("max_rl"), gains_as_much("max_rl", "online_grpo")),
    common=SUMS,
)

BEST = Claim(
    claim="RAFT, which teaches the model the best of its own answers round by round, solves more than its base.",
    paper="Dong et al. 2023, arXiv 2304.06767",
    arms={"raft": play_rounds("raft", "online.n=8"), "online_grpo": PLAY_GROUP},
    figures=gain_and_loss({"raft": "above SFT, near PPO (HH-RLHF)", "online_grpo": "not comparable"}),
    expects=(gains_more("raft"),),
    common=SUMS,
)

ONLINE_DPO = Claim(
    claim="Online DPO, whose pairs are the model's answers as it is, solves more than its base, and more than DPO on "
    "pairs that its base wrote.",
    paper="Guo et al. 2024, arXiv 2402.04792",
    arms={
        "dpo": ["method=dpo+lora", "curate={name: pairs, n: 8, temperature: 1}"],
        "online_dpo": play_rounds("online_dpo+lora"),
    },
    figures=gain_and_loss({"dpo": "loses 58 % of comparisons", "online_dpo": "wins 58 % (TL;DR)"}),
    expects=(gains_more("online_dpo"), gains_more("online_dpo", "dpo")),
    common=SUMS,
)

CLIPPED = Claim(
    claim="Clipped ratios let a model take several steps on the same answers: it gains more from as many episodes.",
    paper="Schulman et al. 2017, arXiv 1707.06347",
    arms={
        "one step a round": play_rounds("online_grpo", f"train.max_steps={FEW}", rounds=FEW),
        "four steps a round": play_rounds("online_grpo", f"online.updates={UPDATES}", rounds=FEW),
    },
    figures=gain_and_loss({"one step a round": "not comparable", "four steps a round": "best of all (MuJoCo)"}),
    expects=(gains_more("four steps a round"), gains_more("four steps a round", "one step a round")),
    common=SUMS,
)
