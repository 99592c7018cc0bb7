"""Export: a run's model as a folder that others load, at any point of the dial, proven by loading it again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.tuner import Tuner
from holdfast.core.files import fresh_directory
from holdfast.core.progress import Progress
from holdfast.errors import RunError, UserError
from holdfast.pipeline.damage import lacks, read_report

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from holdfast.axes.tuner import SavedAs
    from holdfast.models.loading import Loaded

TOLERANCE = 1e-4
"""Largest difference of a log-probability between the live model and the folder read back."""


def export(
    run: str | Path,
    out: str | Path,
    *,
    dial: float | None = None,
    merge: bool = False,
    dtype: str | None = None,
    device: str = "auto",
    ui: Progress | None = None,
) -> Path:
    """Write the model of a run to `out`, which has that name only once it was read back and agrees.

    Args:
        run: Directory of a finished run.
        dial: Point on the line from base (0) to tuned (1); an adapter is folded in.
        merge: Fold an adapter into the base weights. The result is compared with the model and its adapter, in fp32.
        dtype: `fp32`, `bf16` or `fp16`; default: as the run saved it, which is the type of the model it started from.
        device: Where this is computed, as in a recipe.
    Raises:
        UserError: If `run` is not a finished run, or a point of the dial is asked of one that answers through more than
            its weights, or the weights are not of that type alone, or beyond its reach; or
            the dial finds another base than the run had.
        RunError: If the adapter cannot be folded in, or what was written does not give the log-probabilities of the
            model it was made from.
    """
    import torch

    from holdfast.generation.decoder import FILE, read_setup
    from holdfast.methods.inference.dial import Dial
    from holdfast.models.files import count_broken
    from holdfast.models.loading import load, locate
    from holdfast.models.merging import distance, fold, probe_logps
    from holdfast.models.placement import weights_dtype
    from holdfast.models.saving import settle

    wanted = _dtype(dtype)
    ui, run, out = ui or Progress.silent(), Path(run), _free(Path(out))
    known = _report(run)
    ui.phase("load")
    # What is folded in is added in fp32, proven in fp32, and rounded once.
    folds = merge or dial is not None
    setup = read_setup(locate(run))
    if dial is not None and setup is not None:
        raise UserError(f"--dial: the figures of this run are not of its weights alone: {setup.line}; leave --dial out")
    tuned = load(run, torch.float32 if folds or wanted == torch.float32 else None, device=device)
    saved, model, tuner = wanted or tuned.dtype, tuned.model, tuned.tuner
    if wanted is not None and not folds and tuner.adapter:
        raise UserError("--dtype: an adapter has no weights to change; add --merge, or load its base in that type")
    if dial is not None:
        base = load(known["recipe"]["model"], model.dtype, device=tuned.device)
        _refuse_other_base(known, base)
    if folds:
        model, tuner = fold(model, tuner), Tuner()
    if dial is not None:
        model = Dial(point=dial).weights(base.model, model)  # type: ignore[arg-type]
    exact = probe_logps(model) if folds else None
    model = settle(model, saved, weights_dtype(saved, tuned.device), tuner)
    if count_broken(model.parameters()):
        raise UserError(f"--dtype: some weights are beyond the reach of {dtype or saved}; use bf16 or fp32")
    rounded = probe_logps(model)
    written = replace(tuned, model=model, tuner=tuner, dtype=saved)
    _write(written, out, rounded, lambda saved_as: _card(known, saved_as, saved, dial), ui)
    if setup is not None:
        ui.line(f"{setup.line}; holdfast chat and eval read {out / FILE}")
    if exact is not None and (moved := distance(exact, rounded).most) > TOLERANCE:
        ui.line(f"rounding to {str(saved).removeprefix('torch.')} moved log-probabilities by up to {moved:.1e}")
    return out


def _free(out: Path) -> Path:
    """The directory that `out` names, at the end of a link where it is one.

    Raises:
        UserError: If it is not empty, or there is nothing where the link leads.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out} exists and is not empty; choose another directory")
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out} is a link to {os.readlink(out)}, which is not there; choose another directory")
    return out.resolve() if out.is_symlink() else out


def _report(run: Path) -> dict[str, Any]:
    """The report of a finished run."""
    report = run / "report.json"
    if not report.exists():
        raise UserError(f"{run}: not a finished run; train it first (holdfast train), or give another directory")
    if what := lacks(run):
        raise UserError(f"{what}; the command that trained this run makes it again (holdfast train {run})")
    return read_report(report)


def _refuse_other_base(report: dict[str, Any], base: Loaded) -> None:
    """The line of the dial begins at the weights the run began at, not at what has their name now."""
    there = report["model"].get("fingerprint")
    if there not in (None, base.fingerprint):
        raise UserError(
            f"--dial: the weights of {report['recipe']['model']} are not those the run started from (fingerprint "
            f"{there[:12]} there, {base.fingerprint[:12]} here); put the old ones back"
        )


def _write(model: Loaded, out: Path, wanted: Tensor, card: Callable[[SavedAs], str], ui: Progress) -> None:
    """Write a model beside `out`, see that it is read back as it was, and give it its name.

    Args:
        model: What is written, in the type of its files, with its tuner.
        card: Makes the card.
        wanted: Log-probabilities it must give, as of `probe_logps`.
    """
    from holdfast.data.chat.settings import ChatSettings, settings_of
    from holdfast.generation.decoder import FILE
    from holdfast.models.loading import load, read_base
    from holdfast.models.merging import distance, probe_logps
    from holdfast.models.saving import fill

    ui.phase("write")
    chat = (settings_of(model.path) or ChatSettings()).chat(model.tokenizer)
    base = read_base(model.path) if model.tuner.adapter else ""
    with fresh_directory(out) as side:  # whatever goes wrong in here leaves nothing behind
        saved_as = fill(side, model.model, model.tokenizer, dtype=model.dtype, chat=chat, tuner=model.tuner, base=base)
        (side / "README.md").write_text(card(saved_as), encoding="utf-8", newline="\n")
        if (model.path / FILE).exists():
            shutil.copyfile(model.path / FILE, side / FILE)
        ui.phase("verify")
        worst = distance(wanted, probe_logps(load(side, device=model.device).model)).most
        if not worst <= TOLERANCE:
            raise RunError(
                f"{out}: not written: read back, its log-probabilities differ by {worst:.1e} from those of the model "
                "it was made from"
            )
    ui.line(f"verified: log-probabilities of the written model agree to {worst:.1e}")


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name is not None and name not in known:
        raise UserError(f"--dtype: must be {', '.join(known)}, not {name}")
    return known[name] if name else None


def _card(report: dict[str, Any], saved_as: SavedAs, saved: torch.dtype, dial: float | None) -> str:
    """The run's card for the folder that was written; it says where that differs from what was measured."""
    from holdfast.report.model_card import render_card

    types = {"dtype": str(saved).removeprefix("torch."), "saved_as": saved_as.to_json()}
    card = render_card({**report, "model": {**report["model"], **types}}, ".")
    if dial is None:
        return card
    note = f"These weights lie at {dial:g} of the way from base to tuned model; figures below are of the run's model."
    return card.replace("\n## What it gained", f"\n{note}\n\n## What it gained", 1)
