"""A model asked through an inference method that is chosen now, whatever it was trained with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.axes.registry import identity_of, name_of
from holdfast.data.rows import fingerprint_json
from holdfast.errors import UserError
from holdfast.generation.decoder import Decoder, build_decoder, check_models, open_decoder

if TYPE_CHECKING:
    from holdfast.axes.inference import Inference
    from holdfast.models.loading import LoadedModel


def open_chosen_decoder(checkpoint: LoadedModel, name: str, method: Inference | None) -> Decoder:
    """The model as it answers: through what `inference.json` beside its weights says, then through `method`.

    Args:
        name: Of the model, as in a recipe: of a run the method is given the base.
        method: `None`: as `open_decoder`.
    Raises:
        UserError: If a model that the method reads is not there, or does not belong to this one.
    """
    decoder = open_decoder(checkpoint)
    if method is None:
        return decoder
    check_models(method, name)
    base, base_name = _load_own_base(checkpoint, name, method)
    tuned, origin = decoder.model, ""
    if "weights" in method.list_changes():
        from holdfast.models.merging import merged_copy

        tuned, made_of = merged_copy(tuned, checkpoint.tuner), base.fingerprint if base else ""
        origin = fingerprint_json([decoder.origin, identity_of(method), made_of])
    own = build_decoder(method, base, tuned, base_name)
    return replace(
        own, methods=[*decoder.methods, *own.methods], others={**decoder.others, **own.others},
        sources={**decoder.sources, **own.sources}, origin=origin or decoder.origin,
    )  # fmt: skip


def _load_own_base(checkpoint: LoadedModel, name: str, method: Inference) -> tuple[LoadedModel | None, str]:
    """The model before training, where the method reads it, and its name."""
    from holdfast.models.loading import load_model
    from holdfast.models.own_base import find_own_base

    if not method.reads_base():
        return None, name
    base_name = find_own_base(name)
    if base_name is None:
        raise UserError(
            f"inference: {name_of(method)} reads the model from before training, and {name} is neither a run nor an "
            "adapter; name one of these"
        )
    try:
        return load_model(base_name, device=checkpoint.device), base_name
    except UserError as error:
        raise UserError(f"inference: {name_of(method)} reads the model from before training: {error}") from error
