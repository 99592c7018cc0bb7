"""`holdfast plan`: what a recipe would take on many GPUs that are not here, on paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.progress import Progress
from holdfast.errors import UserError
from holdfast.models.placement import GIB
from holdfast.models.quantized_base import count_quantizable
from holdfast.models.shape import HALF, ModelSize, load_shape
from holdfast.pipeline.cluster.accelerators import find_accelerator
from holdfast.pipeline.cluster.assumptions import build_cluster, settle_assumptions
from holdfast.pipeline.cluster.cost_model import (
    Cluster,
    StepCost,
    compute_reading_seconds,
    compute_step_cost,
    count_forward_flops,
    plan_decoding,
)
from holdfast.pipeline.cluster.gpu_memory import GpuMemory, TunedShape
from holdfast.pipeline.cluster.workload import AnswerWork, Workload, measure_workload
from holdfast.pipeline.compute_estimate import TargetDevice
from holdfast.pipeline.estimate import apply_last_draw
from holdfast.recipe.data_entries import data_label
from holdfast.recipe.loader import ResolvedRecipe, resolve_any
from holdfast.recipe.schema import Recipe
from holdfast.training.apply_tuner import apply_tuner
from holdfast.training.sharing import refuse_sharing

if TYPE_CHECKING:
    from holdfast.models.shape import ModelShape

HOUR = 3600
ENOUGH = 0.9
"""Share of the GPUs that compute, from which on nothing is said of the others."""
MOST_GPUS = 1 << 16
"""Beyond which nothing is looked for."""


def plan_cluster(
    recipe: ResolvedRecipe | Recipe | dict[str, Any] | str,
    gpus: int,
    kind: str,
    nodes: int | None = None,
    assume: Sequence[str] = (),
    *,
    ui: Progress | None = None,
) -> dict[str, Any]:
    """What a recipe takes on GPUs that need not be here: memory of each, hours, and what the time goes to.

    Args:
        gpus: How many.
        kind: Of which (`accelerators.KINDS`).
        nodes: Machines they stand in; default: as few as there can be.
        assume: Changes to what is taken for granted, `NAME=VALUE` each.
    Returns:
        `assumptions`, and `model`, `memory`, `training`, `sampling`, `evaluation`, `total` and `warnings`; of a recipe
        with stages `stages`, a list of these.
    Raises:
        UserError: If the GPUs cannot be, or the recipe, its rows or its model's settings cannot be read.
    """
    resolved_recipe = resolve_any(recipe)
    accelerator = find_accelerator(kind)
    assumptions = settle_assumptions(accelerator, assume)
    machines = _count_machines(gpus, nodes, accelerator.per_machine)
    values = {one.name: one.value for one in assumptions}
    cluster = build_cluster(gpus, machines, values)
    about = {
        "gpus": gpus, "kind": kind.lower(), "nodes": machines, "assumptions": [one.to_json() for one in assumptions],
    }  # fmt: skip
    quiet = ui or Progress.create_silent()
    if resolved_recipe.recipe.stages:
        return {**about, "stages": _plan_stages(resolved_recipe, cluster, values, quiet)}
    return {**about, **_plan_one(resolved_recipe, cluster, values, quiet)}


def _count_machines(gpus: int, nodes: int | None, per_machine: int) -> int:
    """The machines of so many GPUs."""
    if gpus < 1:
        raise UserError(f"--gpus {gpus}: must be 1 or more")
    machines = nodes if nodes is not None else math.ceil(gpus / per_machine)
    if machines < 1 or gpus % machines:
        raise UserError(f"--nodes {machines}: {gpus} GPUs do not stand in so many machines, as many in each")
    return machines


def _plan_stages(
    resolved_recipe: ResolvedRecipe, cluster: Cluster, values: Mapping[str, float], ui: Progress
) -> list[dict[str, Any]]:
    """Each stage, with the model at the beginning of its chain."""
    from holdfast.pipeline.multi_stage import check_stages, first_model_of_chain, plan_stage

    check_stages(resolved_recipe, each=False)
    recipe, plans = resolved_recipe.recipe, []
    for number, stage in enumerate(recipe.stages):
        one = plan_stage(resolved_recipe, number, Path(recipe.output), first_model_of_chain(recipe, stage))
        what = f"method {stage.method_label}, data {data_label(stage.data)}, from {stage.model}"
        plans.append({"name": stage.name, "what": what, **_plan_one(one, cluster, values, ui)})
    return plans


def _plan_one(
    resolved_recipe: ResolvedRecipe, cluster: Cluster, values: Mapping[str, float], ui: Progress
) -> dict[str, Any]:
    """The plan of a recipe without stages, or of one stage."""
    recipe = resolved_recipe.recipe
    ui.start_phase("plan")
    shape = load_shape(recipe.model)
    recipe.tuner.check(shape.model)
    if cluster.gpus > 1:
        refuse_sharing(recipe)
    work = measure_workload(resolved_recipe, shape, values["characters"], ui)
    tuned = _tune_shape(recipe, shape, work.plan.steps)
    target = TargetDevice.from_gib(values["memory"])
    working = min(cluster.gpus, max(1, math.floor(work.plan.size.rows)))
    memory = tuned.plan_memory(target, cluster.gpus, work.plan.size.tokens, work.longest, working)
    warnings = [*work.warnings, *_warn_of_idle(cluster, working, work)]
    parts = {
        "sampling": _plan_answers(recipe, tuned.size, cluster, values, work.curation),
        "evaluation": _plan_answers(recipe, tuned.size, cluster, values, work.evaluation),
        "training": _plan_training(recipe, tuned.size, cluster, values, work, memory),
    }
    fewest = cluster.gpus if memory.has_room else _find_fewest_gpus(tuned, target, cluster.gpus, work)
    warnings += _warn_of_shortage(parts, memory, cluster, fewest)
    warnings += _warn_of_whole_models(tuned.size, target, parts)
    hours = [part["hours"] for part in parts.values() if part]
    total = None if None in hours else sum(hours)
    size = tuned.size
    return {
        "model": {
            "parameters": size.parameters, "active": round(size.active), "trainable": size.trained,
            "layers": size.layers, "cache_bytes": size.cache_bytes,
        },
        "memory": {
            "memory": memory.estimate.describe_total(), "memory_gib": memory.estimate.total / GIB,
            "memory_parts": {name: amount / GIB for name, amount in memory.estimate.list_parts()},
            "fits": memory.fits, "fewest_gpus": fewest,
        },
        **parts,
        "total": {"hours": total, "gpu_hours": None if total is None else total * cluster.gpus},
        "warnings": warnings,
    }  # fmt: skip


def _tune_shape(recipe: Recipe, shape: ModelShape, steps: int) -> TunedShape:
    """The model with its tuner, as it trains in its last step."""
    n_quantized = count_quantizable(shape.model) if recipe.tuner.frozen_bits() else 0
    tuned = apply_tuner(recipe, shape.model, recipe.train.init_seed)
    apply_last_draw(recipe, tuned, steps)
    return TunedShape(recipe, tuned, ModelSize.from_model(tuned), n_quantized)


def _plan_training(
    recipe: Recipe, size: ModelSize, cluster: Cluster, values: Mapping[str, float], work: Workload, memory: GpuMemory
) -> dict[str, Any]:
    """Steps, and the reference where the objective needs one."""
    cost: StepCost = compute_step_cost(
        size, cluster, work.tokens, work.length, work.plan.size.rows, memory.passes,
        is_recomputed=recipe.train.gradient_checkpointing == "full", gradient_bytes=values["gradient_bytes"],
    )  # fmt: skip
    reference = work.reference_tokens * count_forward_flops(size, work.length) / (cluster.gpus * cluster.flops)
    hours = (work.plan.steps * cost.seconds + reference) / HOUR
    return {
        "steps": work.plan.steps, "batch_tokens": work.plan.size.tokens, "batch": work.plan.breakdown,
        "micro_tokens": memory.micro_tokens, "micro_batches": memory.passes, "step_flops": cost.flops,
        "compute_seconds": cost.compute_seconds, "traffic_seconds": cost.traffic_seconds,
        "step_seconds": cost.seconds, "bound": cost.bound, "reference_seconds": reference,
        "hours": hours, "gpu_hours": hours * cluster.gpus,
    }  # fmt: skip


def _plan_answers(
    recipe: Recipe, size: ModelSize, cluster: Cluster, values: Mapping[str, float], work: AnswerWork
) -> dict[str, Any] | None:
    """Answers that are written, and what is read; None where there is neither."""
    if not work.answers and not work.read:
        return None
    answer = work.answer * values["answer_share"]
    way = plan_decoding(
        size, cluster, recipe.sampling.slots, work.prompt, answer, max(1, work.answers), int(values["copies"])
    )
    tokens = work.answers * answer
    entries: dict[str, Any] = {"answers": work.answers, "tokens": round(tokens), "read_tokens": round(work.read)}
    if way is None:
        return {**entries, "hours": None, "gpu_hours": None}
    reading = compute_reading_seconds(size, cluster, way, work.read, work.length)
    hours = (tokens / way.tokens_per_second + reading) / HOUR
    return {
        **entries, "gpus_per_copy": way.per_copy, "copies": way.copies, "batch": way.batch,
        "tokens_per_second": way.tokens_per_second, "bound": way.bound, "reading_seconds": reading,
        "hours": hours, "gpu_hours": hours * cluster.gpus,
    }  # fmt: skip


def _find_fewest_gpus(tuned: TunedShape, target: TargetDevice, gpus: int, work: Workload) -> int | None:
    """The fewest GPUs of a power of two times `gpus` that hold the training with room; None where no number does."""
    try:
        refuse_sharing(tuned.recipe)
    except UserError:
        return None
    count = gpus
    while count < MOST_GPUS:
        count *= 2
        if tuned.plan_memory(target, count, work.plan.size.tokens, work.longest, count).has_room:
            return count
    return None


def _warn_of_idle(cluster: Cluster, working: int, work: Workload) -> list[str]:
    """A line where a step has fewer rows than there are GPUs."""
    if working > ENOUGH * cluster.gpus or not work.plan.steps:
        return []
    return [
        f"a step has {work.plan.size.rows:.0f} rows, so {working} of {cluster.gpus} GPUs compute: raise "
        f"train.batch_tokens (now {work.plan.size.tokens:,}), or take fewer GPUs"
    ]


def _warn_of_whole_models(
    size: ModelSize, target: TargetDevice, parts: Mapping[str, dict[str, Any] | None]
) -> list[str]:
    """Lines where this version would hold more of a model in one place than is planned here."""
    lines, whole = [], HALF * size.parameters
    if target.free is not None and whole > target.free:
        lines.append(
            f"the plan is of what could be: this version loads the whole model in each process first, "
            f"{whole / GIB:,.0f} GiB, and gathers it to save it"
        )
    several = max((part.get("gpus_per_copy", 1) for part in parts.values() if part), default=1)
    if several > 1:
        lines.append(
            f"a model that answers on {several} GPUs together is a server's (vLLM, --tensor-parallel-size {several}): "
            "give its address as sampling.engine; what is measured is measured on one GPU"
        )
    return lines


def _warn_of_shortage(
    parts: Mapping[str, dict[str, Any] | None], memory: GpuMemory, cluster: Cluster, fewest: int | None
) -> list[str]:
    """Lines where something does not fit."""
    lines = []
    if not memory.has_room:
        mend = f"{fewest:,} have room" if fewest else "no number of GPUs would do"
        more = "train.gradient_checkpointing: full, tuner: lora or a smaller train.max_length takes less"
        what = "is tight" if memory.fits else "does not fit"
        lines.append(f"training {what} on {cluster.gpus} GPUs: {memory.estimate.describe_total()}; {mend}; {more}")
    lines += [
        f"{name}: all {cluster.gpus} GPUs together do not hold the weights and one answer"
        for name, part in parts.items()
        if part is not None and part["hours"] is None
    ]
    return lines
