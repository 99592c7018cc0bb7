"""What a plan on paper takes for granted: each with its value, why, and a name by which it can be changed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from holdfast.errors import UserError
from holdfast.pipeline.cluster.cost_model import Cluster

if TYPE_CHECKING:
    from holdfast.pipeline.cluster.accelerators import Accelerator

SHARES = ("utilisation", "decode_share", "link_share", "memory_share", "answer_share")
"""Between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """Something taken for granted.

    Args:
        name: By which `--assume` changes it.
        value: In `unit`.
        unit: "" for shares.
        why: Where the value is from.
    """

    name: str
    value: float
    unit: str
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "unit": self.unit, "why": self.why}


def list_defaults(accelerator: Accelerator) -> list[Assumption]:
    """All of them, for one kind of accelerator."""
    sheet = accelerator.source
    return [
        Assumption("flops", accelerator.flops, "FLOP/s", f"dense bf16; {sheet}"),
        Assumption("memory", accelerator.memory, "GiB", "of a GPU; the same source"),
        Assumption("bandwidth", accelerator.bandwidth, "B/s", "of its memory; the same source"),
        Assumption("link", accelerator.link, "B/s", "of a GPU inside a machine, one direction; the same source"),
        Assumption("network", accelerator.network, "B/s", "of a GPU between machines, one direction; the same source"),
        Assumption("utilisation", 0.4, "", "of flops, in training and reading; Llama 3 had 38 to 43 % (2407.21783)"),
        Assumption("decode_share", 0.6, "", "of bandwidth, in writing answers; a guess, measure yours"),
        Assumption("link_share", 0.8, "", "of link or network, in exchanges; a guess, measure yours"),
        Assumption("memory_share", 0.8, "", "of memory, for weights and cache in sampling, as the native engine takes"),
        Assumption("gradient_bytes", 4, "B", "of a gradient as it is exchanged: Holdfast sums in fp32"),
        Assumption("answer_share", 1.0, "", "of its longest, how long an answer is: the most there can be"),
        Assumption("characters", 3, "", "of a token, where the model's folder has no tokenizer, and in questions"),
        Assumption("copies", 0, "", "of the model that answer side by side; 0: as many as fit"),
    ]


def settle_assumptions(accelerator: Accelerator, changes: Sequence[str]) -> list[Assumption]:
    """The assumptions with those that a user changed.

    Args:
        changes: `NAME=VALUE` each.
    Raises:
        UserError: If there is none of a name, or its value cannot be.
    """
    by_name = {one.name: one for one in list_defaults(accelerator)}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"--assume {change}: give NAME=VALUE, of {', '.join(by_name)}{hint}")
        by_name[name] = replace(by_name[name], value=_parse_value(name, text), why="given")
    return list(by_name.values())


def _parse_value(name: str, text: str) -> float:
    """A number that the assumption can be."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if name == "copies" and value.is_integer() and value >= 0:
        return value
    if name == "copies":
        raise UserError(f"--assume {name}={text}: must be a whole number, 0 for as many as fit")
    if not 0 < value < math.inf or (name in SHARES and value > 1):
        what = "a number above 0, at most 1" if name in SHARES else "a number above 0, such as 989e12"
        raise UserError(f"--assume {name}={text}: must be {what}")
    return value


def build_cluster(gpus: int, nodes: int, values: Mapping[str, float]) -> Cluster:
    """The machines of a plan.

    Args:
        values: Of the assumptions, by name.
    """
    exchange = values["network"] if nodes > 1 else values["link"]
    return Cluster(
        gpus=gpus,
        flops=values["flops"] * values["utilisation"],
        bandwidth=values["bandwidth"] * values["decode_share"],
        exchange=exchange * values["link_share"],
        room=values["memory"] * 2**30 * values["memory_share"],
    )
