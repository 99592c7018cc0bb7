"""`holdfast dial`: a finished run at points of the line from its base, on its own tasks; one table, one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.core.progress import Progress
from holdfast.errors import UserError
from holdfast.evaluation.summary import read_run, summarise_comparison
from holdfast.pipeline.damage import read_report
from holdfast.pipeline.run_dir import dependency_versions, replace_json
from holdfast.report.schema import CompareReport, validate_report

POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
REPORT = "compare.json"


def measure_dial_curve(
    run: str | Path,
    points: Sequence[float] = POINTS,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Measure a run at every point and write `compare.json` and `report.html`; points that were measured stay.

    Args:
        run: Directory of a finished run whose base is still there.
        points: From 0 (base) to 1 (tuned).
        out: Directory; default: RUN/dial.
        device: As in a recipe.
    Returns:
        The content of `compare.json`, and its `directory`.
    Raises:
        UserError: If there is no such run, or a point is not on the line.
    """
    from holdfast.methods.inference.dial import Dial
    from holdfast.models.own_base import find_own_base
    from holdfast.pipeline.evaluate import evaluate
    from holdfast.report.html import render_compare, write_page

    ui, folder = ui or Progress.create_silent(), Path(run).expanduser()
    if not (folder / "report.json").exists():
        raise UserError(f"{run}: is no finished run; name the directory of one")
    if wrong := [point for point in points if not 0 <= point <= 1]:
        raise UserError(f"--points: {wrong[0]:g} is not between 0 (base) and 1 (tuned)")
    if not points:
        raise UserError("--points: give at least one, as 0,0.5,1")
    report, base = read_report(folder / "report.json"), find_own_base(str(folder))
    root = Path(out).expanduser() if out else folder / "dial"
    measurements = {}
    for number, point in enumerate(dict.fromkeys(points), 1):
        ui.close()
        ui.write_line(f"point {point:g} ({number} of {len(set(points))})")
        home = root / f"point-{point:g}"
        evaluate(str(folder), against=base, inference=Dial(point=point), device=device, out=home, ui=ui)
        measurements[f"dial {point:g}"] = [read_run(home, tuned="tuned")]
    content = {
        "name": f"{folder.name}, dialled", "created": report.get("created"), "recipe": report.get("recipe"),
        "budget": "no training: weights on the line from base to tuned", "versions": dependency_versions(),
        "model": {"name": base}, **summarise_comparison(measurements),
    }  # fmt: skip
    for entry in content["runs"]:
        entry["dirs"] = [str(root / f"point-{entry['method'].removeprefix('dial ')}")]
        entry["seeds"], entry["origins"], entry["doubts"] = [0], {}, {}
    comparison = validate_report(CompareReport, content)
    replace_json(root / REPORT, comparison)
    write_page(root / "report.html", render_compare(comparison))
    return {**comparison, "directory": str(root)}
