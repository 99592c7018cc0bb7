"""`holdfast lab build`: train a laboratory model from nothing; killed and repeated, it goes on where it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.core.progress import Progress


def build_lab_model(
    name: str = "lab", out: str | Path = "runs/lab-build", *, steps: int | None = None, ui: Progress | None = None
) -> Path:
    """Train the laboratory model `name` (`lab`, `lab-small`, `lab-graded`, which begins with `lab`, or `lab-vl`, which
    begins with `lab-small`).

    Args:
        out: Working folder: resumable state, intermediate models, and the result under `final/`.
        steps: Fewer steps than the plan's, to try the machinery.
        ui: Where progress is shown.
    Returns:
        The folder of the finished bf16 model; copy it to `lab/models/NAME` to ship it.
    """
    from holdfast.lab.pretrain import PLANS, Pretraining
    from holdfast.lab.pretrain_pictures import PICTURE_PLAN, PicturePretraining

    plans = {**PLANS, "lab-vl": PICTURE_PLAN}
    if name not in plans:
        raise UserError(f"{name} is not a laboratory model{suggest_name(name, plans)}")
    plan = plans[name]
    if steps is not None:  # each as heavy as one of the plan's: not all facts in the few that there are
        first = plan.cycles[0]
        over = first.facts_over or first.steps
        short = replace(first, steps=steps, horizon=steps, warmup=min(200, steps // 4), facts_over=over)
        plan = replace(plan, cycles=(short,), milestones=())
    kind = PicturePretraining if name == "lab-vl" else Pretraining
    training = kind(plan, Path(out) / name, log=ui.write_line if ui else print)
    training.run()
    return training.folder / "final"
