"""Export: a run's model as a folder that others load, at any point of the dial, proven by loading it again."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.tuner import Tuner
from holdfast.core.files import fresh_directory
from holdfast.core.progress import Progress
from holdfast.errors import RunError, UserError
from holdfast.pipeline.damage import find_damage, read_report

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from holdfast.axes.tuner import SavedFormat
    from holdfast.models.loading import LoadedModel, Model

FORMS = ("folder", "gguf")
TOLERANCE = 1e-4
"""Largest difference of a log-probability between the live model and the folder read back."""


def export_model(
    run: str | Path,
    out: str | Path,
    *,
    dial: float | None = None,
    merge: bool = False,
    dtype: str | None = None,
    form: str = "folder",
    shard_size: str | None = None,
    push: str | None = None,
    public: bool = False,
    device: str = "auto",
    ui: Progress | None = None,
) -> Path:
    """Write the model of a run to `out`, which has that name only once it was read back and agrees.

    Args:
        run: Directory of a finished run.
        dial: Point on the line from base (0) to tuned (1); an adapter is folded in.
        merge: Fold an adapter into the base weights. The result is compared with the model and its adapter, in fp32.
        dtype: `fp32`, `bf16` or `fp16`, of GGUF also `q8_0`; default: as the run saved it, which is the type of the
            model it started from.
        form: `folder`, which transformers, PEFT and vLLM load, or `gguf`: a file for llama.cpp and Ollama with its
            Modelfile, an adapter folded in.
        shard_size: Most bytes of one file of weights, as `5GB`; default: transformers' own.
        push: OWNER/NAME of a repository on the Hugging Face hub, where the folder goes too once it agrees; private,
            unless `public`.
        device: Where this is computed, as in a recipe.
    Raises:
        UserError: If `run` is not a finished run, or a point of the dial is asked of one that answers through more than
            its weights, or the weights are not of that type alone, or beyond its reach; or
            the dial finds another base than the run had; or the hub would not take it.
        RunError: If the adapter cannot be folded in, or what was written does not give the log-probabilities of the
            model it was made from; or the hub did not take it.
    """
    ui, run, out = ui or Progress.create_silent(), Path(run), _require_free_directory(Path(out))
    order = ExportOrder.from_options(dial, merge, dtype, form, shard_size)
    report = _require_report(run)
    if public and not push:
        raise UserError("--public: says who may read what --push puts on the hub; add --push OWNER/NAME")
    if push:
        from huggingface_hub import HfApi

        from holdfast.core.hub_push import check_push, push_folder

        api = HfApi()
        check_push(push, public=public, api=api)
    _export_here(run, out, report, order, device, ui)
    if push:
        ui.start_phase("push")
        ui.write_line(f"pushed to {push_folder(out, push, public=public, api=api)}")
    return out


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """What is to be written.

    Args:
        dial: Point on the line from base to tuned.
        folds: Whether an adapter is folded in.
        as_gguf: Whether it becomes a GGUF; else a folder.
        dtype: Type of the weights, by its name here.
        shard_size: Most bytes of one file of weights.
    """

    dial: float | None
    folds: bool
    as_gguf: bool
    dtype: str | None
    shard_size: int | None

    @classmethod
    def from_options(
        cls, dial: float | None, merge: bool, dtype: str | None, form: str, shard_size: str | None
    ) -> ExportOrder:
        """The order that options give.

        Raises:
            UserError: If one is wrong, or two do not go together.
        """
        if form not in FORMS:
            raise UserError(f"--form: must be {' or '.join(FORMS)}, not {form}")
        as_gguf = form == "gguf"
        if not as_gguf:
            _parse_dtype(dtype)
        if shard_size is not None and as_gguf:
            raise UserError("--shard-size: a GGUF is one file; leave it out")
        most_bytes = None if shard_size is None else parse_shard_size(shard_size)
        return cls(dial, merge or as_gguf or dial is not None, as_gguf, dtype, most_bytes)

    def check_adapter(self, tuner: Tuner) -> None:
        """See that an adapter that stays one can be written so.

        Raises:
            UserError: If not.
        """
        if self.folds or not tuner.adapter:
            return
        if self.dtype is not None:
            raise UserError("--dtype: an adapter has no weights to change; add --merge, or load its base in that type")
        if self.shard_size is not None:
            raise UserError("--shard-size: an adapter is one small file; add --merge, or leave it out")


def _export_here(run: Path, out: Path, report: dict[str, Any], order: ExportOrder, device: str, ui: Progress) -> None:
    """Write what is ordered, on this machine."""
    import torch

    from holdfast.generation.decoder import FILE, read_setup
    from holdfast.models.loading import load_model, locate_model
    from holdfast.models.merging import probe_logps

    ui.start_phase("load")
    setup = read_setup(locate_model(run))
    if setup is not None and (order.dial is not None or order.as_gguf):
        option = "--form gguf" if order.as_gguf else "--dial"
        raise UserError(
            f"{option}: the figures of this run are not of its weights alone: {setup.line}; leave {option} out"
        )
    chosen_dtype = None if order.as_gguf else _parse_dtype(order.dtype)
    # What is folded in is added in fp32, proven in fp32, and rounded once.
    in_full = order.folds or chosen_dtype == torch.float32
    tuned = load_model(run, torch.float32 if in_full else None, device=device)
    order.check_adapter(tuned.tuner)
    if order.folds:
        whole = replace(tuned, model=_fold_model(tuned, report, order.dial), tuner=Tuner())
        exact = probe_logps(whole.model)
    else:
        whole, exact = tuned, None
    if order.as_gguf and exact is not None:
        _export_as_gguf(whole, out, report, exact, order.dtype, order.dial, ui)
        return
    saved_dtype = chosen_dtype or tuned.dtype
    card = partial(_render_export_card, report, saved_dtype=saved_dtype, dial=order.dial)
    _export_as_folder(replace(whole, dtype=saved_dtype), out, card, exact, order.shard_size, ui)
    if setup is not None:
        ui.write_line(f"{setup.line}; holdfast chat and eval read {out / FILE}")


def parse_shard_size(text: str) -> int:
    """Bytes of a size as `500MB`, `5GB` or `2GiB`.

    Raises:
        UserError: If it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG])(i?)B", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** (" KMG".index(match[2].upper()))) if match else 0
    if size < 1:
        raise UserError(f"--shard-size: must be a size as 500MB or 5GB, not {text}")
    return size


def _export_as_folder(
    model: LoadedModel,
    out: Path,
    card: Callable[[SavedFormat], str],
    exact: Tensor | None,
    shard_size: int | None,
    ui: Progress,
) -> None:
    """Round the weights to the type of their files, write them, and say what rounding moved.

    Args:
        model: In the type of its files.
        card: Makes the card.
        exact: Log-probabilities of what was folded in, before rounding.
        shard_size: Most bytes of one file of weights.
    """
    from holdfast.models.files import count_non_finite
    from holdfast.models.merging import compute_distance, probe_logps
    from holdfast.models.placement import weights_dtype
    from holdfast.models.saving import cast_as_reloaded

    dtype = str(model.dtype).removeprefix("torch.")
    weights = cast_as_reloaded(model.model, model.dtype, weights_dtype(model.dtype, model.device), model.tuner)
    if count_non_finite(weights.parameters()):
        raise UserError(f"--dtype: some weights are beyond the reach of {dtype}; use bf16 or fp32")
    rounded_logps = probe_logps(weights)
    _write_and_verify(replace(model, model=weights), out, rounded_logps, card, shard_size, ui)
    if exact is not None and (shift := compute_distance(exact, rounded_logps).most) > TOLERANCE:
        ui.write_line(f"rounding to {dtype} moved log-probabilities by up to {shift:.1e}")


def _fold_model(tuned: LoadedModel, report: dict[str, Any], dial: float | None) -> Model:
    """Plain weights of a run: its adapter folded in, at a point of the dial."""
    from holdfast.methods.inference.dial import Dial
    from holdfast.models.merging import fold_adapter

    base = None if dial is None else _load_base(report, tuned)
    model = fold_adapter(tuned.model, tuned.tuner)
    return model if base is None else Dial(point=dial).weights(base.model, model)  # type: ignore[arg-type]


def _export_as_gguf(
    model: LoadedModel,
    out: Path,
    report: dict[str, Any],
    exact: Tensor,
    dtype: str | None,
    dial: float | None,
    ui: Progress,
) -> None:
    """Write plain weights as GGUF, with a card of the run."""
    from holdfast.data.chat.settings import ChatSettings, settings_of
    from holdfast.pipeline.export_gguf import SAVED_AS, export_gguf, parse_gguf_type

    kind = parse_gguf_type(dtype, str(model.dtype).removeprefix("torch."))
    chat = (settings_of(model.path) or ChatSettings()).build_chat(model.tokenizer)

    def write_card(side: Path) -> None:
        text = _render_export_card(report, SAVED_AS, model.dtype, dial)
        (side / "README.md").write_text(text, encoding="utf-8", newline="\n")

    export_gguf(model, out, chat, exact, kind, write_card, ui)


def _require_free_directory(out: Path) -> Path:
    """The directory that `out` names, at the end of a link where it is one.

    Raises:
        UserError: If it is not empty, or there is nothing where the link leads.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out} exists and is not empty; choose another directory")
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out} is a link to {os.readlink(out)}, which is not there; choose another directory")
    return out.resolve() if out.is_symlink() else out


def _require_report(run: Path) -> dict[str, Any]:
    """The report of a finished run."""
    report = run / "report.json"
    if not report.exists():
        raise UserError(f"{run}: not a finished run; train it first (holdfast train), or give another directory")
    if what := find_damage(run):
        raise UserError(f"{what}; the command that trained this run makes it again (holdfast train {run})")
    return read_report(report)


def _load_base(report: dict[str, Any], tuned: LoadedModel) -> LoadedModel:
    """The weights the run began at, where the line of the dial begins; not what has their name now."""
    from holdfast.models.loading import load_model

    base = load_model(report["recipe"]["model"], tuned.model.dtype, device=tuned.device)
    there = report["model"].get("fingerprint")
    if there not in (None, base.fingerprint):
        raise UserError(
            f"--dial: the weights of {report['recipe']['model']} are not those the run started from (fingerprint "
            f"{there[:12]} there, {base.fingerprint[:12]} here); put the old ones back"
        )
    return base


def _write_and_verify(
    model: LoadedModel,
    out: Path,
    expected_logps: Tensor,
    card: Callable[[SavedFormat], str],
    shard_size: int | None,
    ui: Progress,
) -> None:
    """Write a model beside `out`, see that it is read back as it was, and give it its name.

    Args:
        model: What is written, in the type of its files, with its tuner.
        card: Makes the card.
        expected_logps: Log-probabilities it must give, as of `probe_logps`.
    """
    from holdfast.data.chat.settings import ChatSettings, settings_of
    from holdfast.generation.decoder import FILE
    from holdfast.models.loading import load_model, read_base
    from holdfast.models.merging import compute_distance, probe_logps
    from holdfast.models.saving import write_model_files

    ui.start_phase("write")
    chat = (settings_of(model.path) or ChatSettings()).build_chat(model.tokenizer)
    base = read_base(model.path) if model.tuner.adapter else ""
    with fresh_directory(out) as side:  # whatever goes wrong in here leaves nothing behind
        saved_as = write_model_files(
            side,
            model.model,
            model.tokenizer,
            dtype=model.dtype,
            chat=chat,
            tuner=model.tuner,
            base=base,
            shard_size=shard_size,
        )
        (side / "README.md").write_text(card(saved_as), encoding="utf-8", newline="\n")
        if (model.path / FILE).exists():
            shutil.copyfile(model.path / FILE, side / FILE)
        ui.start_phase("verify")
        worst = compute_distance(expected_logps, probe_logps(load_model(side, device=model.device).model)).most
        if not worst <= TOLERANCE:
            raise RunError(
                f"{out}: not written: read back, its log-probabilities differ by {worst:.1e} from those of the model "
                "it was made from"
            )
    ui.write_line(f"verified: log-probabilities of the written model agree to {worst:.1e}")


def _parse_dtype(name: str | None) -> torch.dtype | None:
    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name is not None and name not in dtypes:
        raise UserError(f"--dtype: must be {', '.join(dtypes)}, not {name}")
    return dtypes[name] if name else None


def _render_export_card(
    report: dict[str, Any], saved_as: SavedFormat, saved_dtype: torch.dtype, dial: float | None
) -> str:
    """The run's card for the folder that was written; it says where that differs from what was measured."""
    from holdfast.report.model_card import render_card

    types = {"dtype": str(saved_dtype).removeprefix("torch."), "saved_as": saved_as.to_json()}
    card = render_card({**report, "model": {**report["model"], **types}}, ".")
    if dial is None:
        return card
    note = f"These weights lie at {dial:g} of the way from base to tuned model; figures below are of the run's model."
    return card.replace("\n## What it gained", f"\n{note}\n\n## What it gained", 1)
