"""What curators would refuse, refused before anything is measured or sampled, and by `holdfast check`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.axes.registry import name_of
from holdfast.data.rows import Rows
from holdfast.errors import UserError
from holdfast.pipeline.curation_key import open_source
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from holdfast.axes.curator import RowSource


class CurationPool(NamedTuple):
    """The rows that curators are given, and the tokenizer of the base."""

    rows: Rows
    tokenizer: PreTrainedTokenizerBase


def check_curators(recipe: Recipe, pool: CurationPool, say: Callable[[str], Any] = len) -> None:
    """See that the recipe's curators find what they need and can work with the rows.

    Only the first, and those behind curators that leave the rows as they are, are shown them: what others make of them
    is not known yet. The files that the rest read must be there all the same.

    Args:
        say: Called with a line on how each file was read.
    Raises:
        UserError: What a curator would raise in its turn.
    """

    from holdfast.models.loading import locate_model

    def load_rows(source: RowSource) -> Rows:
        return open_source(recipe, source, say)

    rows_are_known = True
    for curator in recipe.curate:
        curator.check_ready()
        for model in curator.named_models():
            locate_model(model)
        for model in curator.compared_models():
            refuse_other_tokenizer(name_of(curator), model, pool.tokenizer)
        if rows_are_known:
            curator.check_rows(pool.rows, load_rows)
        else:
            for source in curator.row_sources():
                load_rows(source)
        rows_are_known &= curator.effect == "rewrite" and not curator.samples  # which may bring the answers


def refuse_other_tokenizer(curator: str, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Log-probabilities of two models are of the same tokens only where their tokenizers are the same."""
    from holdfast.models.loading import load_tokenizer

    if load_tokenizer(model).get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"curator {curator}: {model} has another tokenizer than the base, so that their losses are not of the same "
            "tokens; give one that was tuned from this base, or leave it out"
        )
