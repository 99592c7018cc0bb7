"""Rows to tokens, as a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.data.rows import Rows
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.data.batching.tokenize import TableReport, TokenTable
    from holdfast.data.chat.encoder import Chat

MANY = 50_000
"""Rows from which on their tokens are kept on disk, not in memory."""
LONGEST = 2048
"""Most tokens of a row where the recipe says nothing."""


def encode_rows(
    recipe: Recipe, rows: Rows, chat: Chat, context: int | None, cache: Path | None = None
) -> tuple[TokenTable, TableReport]:
    """The rows tokenised as the recipe says, and what became of each; of many rows the tokens are kept in `cache`.

    Args:
        rows: As `rows_for_objective` gives them.
        context: Most tokens the model can read, if there is a limit.
    """
    from holdfast.data.batching.tokenize import build_table

    return build_table(
        rows, chat,
        max_length=recipe.train.max_length or LONGEST, context=context, too_long=recipe.data.too_long,
        kind=recipe.objective.row_shape(), columns=recipe.objective.value_columns(),
        prompts=recipe.objective.extra_prompts(),
        cache=cache if len(rows) > MANY else None,
    )  # fmt: skip
