"""Export: a run's model as a folder that others load, at any point of the dial, proven by loading it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import RunError, UserError
from holdfast.folder import replace_text
from holdfast.ui import Progress

if TYPE_CHECKING:
    import torch

    from holdfast.models import Model

TOLERANCE = 1e-4
"""Largest difference of a log-probability between the live model and the folder read back."""
PROBES = 32


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
    """Write the model of a run to `out`.

    Args:
        run: Directory of a finished run.
        dial: Point on the line from base (0) to tuned (1); an adapter is folded in.
        merge: Fold an adapter into the base weights.
        dtype: `fp32`, `bf16` or `fp16`; default: as the run saved it, which is the type of the model it started from.
        device: Where this is computed, as in a recipe.
    Raises:
        UserError: If `run` is not a finished run, or the weights are not of that type alone, or beyond its reach.
        RunError: If what was written does not give the live model's log-probabilities.
    """
    from holdfast.data.chat import Chat
    from holdfast.inference.dial import Dial, merged_copy
    from holdfast.models import adapted, load
    from holdfast.placement import weights_dtype
    from holdfast.saving import save, settle

    wanted = _dtype(dtype)
    ui, run = ui or Progress.silent(), Path(run)
    report = run / "report.json"
    if not report.exists():
        raise UserError(f"{run}: not a finished run; train it first (holdfast train), or give another directory")
    known = json.loads(report.read_text(encoding="utf-8"))
    ui.phase("load")
    # What is folded in is added in fp32, and rounded once.
    tuned = load(run, wanted if wanted == _dtype("fp32") else None, device=device)
    saved, model = wanted or tuned.dtype, tuned.model
    if wanted is not None and dial is None and not merge and adapted(model):
        raise UserError("--dtype: an adapter has no weights to change; add --merge, or load its base in that type")
    if dial is not None:
        base = load(known["recipe"]["model"], model.dtype, device=tuned.device)
        model = Dial(point=dial).apply(base.model, tuned.model)  # type: ignore[arg-type]
    elif merge:
        model = merged_copy(tuned.model)  # type: ignore[arg-type]
    model = settle(model, saved, weights_dtype(saved, tuned.device))
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise UserError(f"--dtype: some weights are beyond the reach of {dtype or saved}; use bf16 or fp32")
    ui.phase("write")
    path = save(model, tuned.tokenizer, out, stop_ids=Chat(tuned.tokenizer).stop_ids, dtype=saved)
    replace_text(path / "README.md", _card(known, model, saved, dial))
    ui.phase("verify")
    worst = difference(model, load(path, device=tuned.device).model)
    if not worst <= TOLERANCE:
        raise RunError(
            f"{path}: read back, its log-probabilities differ by {worst:.1e} from the live model's; do not use it"
        )
    ui.line(f"verified: log-probabilities of the written model agree to {worst:.1e}")
    return path


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name is not None and name not in known:
        raise UserError(f"--dtype: must be {', '.join(known)}, not {name}")
    return known[name] if name else None


def _card(report: dict[str, Any], model: Model, saved: torch.dtype, dial: float | None) -> str:
    """The run's card for the folder that was written; it says where that differs from what was measured."""
    from holdfast.models import adapted
    from holdfast.report.card import render_card

    library = "peft" if adapted(model) else "transformers"
    types = {"dtype": str(saved).removeprefix("torch."), "library": library}
    card = render_card({**report, "model": {**report["model"], **types}}, ".")
    if dial is None:
        return card
    note = f"These weights lie at {dial:g} of the way from base to tuned model; figures below are of the run's model."
    return card.replace("\n## What it gained", f"\n{note}\n\n## What it gained", 1)


def difference(one: Model, other: Model) -> float:
    """Largest difference of two models' next-token log-probabilities on `PROBES` random prompts of 16 tokens."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(one.config.get_text_config().vocab_size, (PROBES, 16), generator=generator)
    with torch.no_grad():
        logps = [m.eval()(input_ids=ids.to(m.device)).logits.float().log_softmax(-1).cpu() for m in (one, other)]
    return float((logps[0] - logps[1]).abs().max())
