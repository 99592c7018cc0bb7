"""How the sequences of a micro-batch lie in lines, and the line of the plan that says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from holdfast.data.batching.shared_prefix import SharedPrefixTable
from holdfast.data.row_shapes import PAIR
from holdfast.errors import UserError
from holdfast.models.layer_list import shorten_on_device
from holdfast.training.prompt_sharing import share_prompts

if TYPE_CHECKING:
    from typing import Literal

    import torch

    from holdfast.axes.objective import Objective
    from holdfast.data.batching.batches import Layout, TokenTable
    from holdfast.models.policy import Policy
    from holdfast.training.distributed import Machine

PACKED_PICTURES = "train.layout: rows with pictures are not packed; set it to padded, or leave it out"
"""Why a layout is refused."""


@contextmanager
def place_for_trial(policy: Policy, machine: Machine) -> Iterator[None]:
    """Where attention is tried as it will run: a model to be sharded waits on the CPU, and a few layers come along."""
    if not machine.is_sharded:
        yield
        return
    with shorten_on_device(policy.model, machine.device):
        policy.prove_attention()
        yield


def refuse_unlike_layouts(layout: Layout, world: int) -> None:
    """See that all processes cut steps alike: else they would wait for one another for ever.

    Raises:
        UserError: If they do not.
    """
    if world > 1 and len(layouts := set(gather_object([layout]))) > 1:
        raise UserError(
            f"train.layout: auto came to {' and '.join(sorted(layouts))} on cards that differ; set it to padded"
        )


def choose_layout(
    setting: Literal["auto", "padded", "packed"],
    policy: Policy,
    per_row: int,
    device: torch.device,
    is_sharded: bool = False,
    has_pictures: bool = False,
) -> Layout:
    """The layout a recipe asks for, or the one that costs this model least on its device.

    Args:
        setting: `train.layout`.
        per_row: Sequences of a row.
        device: Where it will compute; weights to be sharded wait on the CPU for that.
        is_sharded: Whether weights will be sharded.
        has_pictures: Whether any row has a picture: such rows have a line of their own.
    Raises:
        UserError: If packed rows are asked for and the model would mix them.
    """
    if has_pictures:
        if setting == "packed":
            raise UserError(PACKED_PICTURES)
        return "padded"
    if setting == "packed" and not policy.isolates_packed_rows:
        raise UserError("train.layout: this model cannot keep packed rows apart; set it to padded")
    if setting != "auto":
        return setting
    if policy.reads_lines_by_length:
        return "packed"
    if device.type == "cuda":
        # A packed line would need a mask of L x L, which takes SDPA's slow kernel; padded lines are causal as they are.
        return "padded"
    # Pairs can share their prompts in padded lines, which a compact model does not pay for; shards are not compact.
    compact = policy.uses_fused_body and not is_sharded
    free = device.type != "cpu" or (compact and per_row == 1)
    return "packed" if free and policy.isolates_packed_rows else "padded"


def share_pair_prompts(table: TokenTable, policy: Policy, layout: Layout, objective: Objective) -> TokenTable:
    """The table, or one whose pairs stand behind their common prompt, where that is the same and cheaper."""
    if table.pictures or objective.row_shape() is not PAIR or not objective.shares_prompts():
        return table
    return share_prompts(table, policy, layout)


def describe_attention(
    policy: Policy, layout: Layout, table: TokenTable | None = None, is_sharded: bool = False
) -> str:
    """Attention and layout for the plan, and what stands against attention by lengths: one line.

    Args:
        table: What batches are made of.
    """
    choice, refusal = policy.attention, ""
    if policy.uses_fused_body and not is_sharded:
        name = "sdpa, sequence by sequence"  # of `models.fused_llama`, which computes no padding in either layout
    elif layout == "packed" and policy.reads_lines_by_length:
        name = f"varlen, {choice.flash}" if choice.flash else "varlen"
        refusal = f": {choice.flash_refusal}" if choice.flash_refusal else ""
    else:
        name = "sdpa" if choice.is_varlen else choice.name
        refusal = f": {choice.refusal}" if choice.refusal else ""
        name += " with a mask" if layout == "packed" else ""
    sharing = ", pairs share their prompt" if isinstance(table, SharedPrefixTable) else ""
    return f"{name} ({layout}{sharing}){refusal}"
