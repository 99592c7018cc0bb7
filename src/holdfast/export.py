"""Export: a run's model as a folder that others load, at any point of the dial, proven by loading it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import RunError, UserError
from holdfast.ui import Progress

if TYPE_CHECKING:
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
    device: str = "auto",
    ui: Progress | None = None,
) -> Path:
    """Write the model of a run to `out`.

    Args:
        run: Directory of a finished run.
        dial: Point on the line from base (0) to tuned (1); an adapter is folded in.
        merge: Fold an adapter into the base weights.
        device: Where this is computed, as in a recipe.
    Raises:
        UserError: If `run` is not a finished run.
        RunError: If what was written does not give the live model's log-probabilities.
    """
    from holdfast.data.chat import Chat
    from holdfast.inference.dial import Dial, merged_copy
    from holdfast.models import load, save

    ui, run = ui or Progress.silent(), Path(run)
    report = run / "report.json"
    if not report.exists():
        raise UserError(f"{run}: not a finished run; train it first (holdfast train), or give another directory")
    ui.phase("load")
    tuned = load(run, device=device)
    model: Model = tuned.model
    if dial is not None:
        base = load(json.loads(report.read_text(encoding="utf-8"))["recipe"]["model"], device=tuned.device)
        model = Dial(point=dial).apply(base.model, tuned.model)  # type: ignore[arg-type]
    elif merge:
        model = merged_copy(tuned.model)  # type: ignore[arg-type]
    ui.phase("write")
    path = save(model, tuned.tokenizer, out, stop_ids=Chat(tuned.tokenizer).stop_ids)
    ui.phase("verify")
    worst = difference(model, load(path, device=tuned.device).model)
    if worst > TOLERANCE:
        raise RunError(
            f"{path}: read back, its log-probabilities differ by {worst:.1e} from the live model's; do not use it"
        )
    ui.line(f"verified: log-probabilities of the written model agree to {worst:.1e}")
    return path


def difference(one: Model, other: Model) -> float:
    """Largest difference of two models' next-token log-probabilities on `PROBES` random prompts of 16 tokens."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(one.config.get_text_config().vocab_size, (PROBES, 16), generator=generator)
    with torch.no_grad():
        logps = [m.eval()(input_ids=ids.to(m.device)).logits.float().log_softmax(-1).cpu() for m in (one, other)]
    return float((logps[0] - logps[1]).abs().max())
