"""`make bench`: every part one after another; one table on the screen, all of it under benchmarks/results.

    python benchmarks/run.py                    # all parts, under 30 minutes on two quiet cores
    python benchmarks/run.py sft dpo            # these parts; the others keep their last results
    python benchmarks/run.py --tiny sft         # the smallest sizes, into build/bench-tiny.json

Writes results/bench.json (lines, machine and raw numbers of every part), results/bench.md (the table),
results/curves.svg (cost against size), the table of memory into docs/scaling.md, and the lines that have a target into
the README.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import HERE, RESULTS, environment, say, table
from curves import draw
from optimizers import write_page

README = HERE.parent / "README.md"
MARKS = ("<!-- speed: written by make bench -->", "<!-- end -->")
PARTS = (
    "sft", "dpo", "sampling", "s3ft", "start", "data", "scale", "limit", "overhead", "sandbox", "optimizers", "proxy",
    "serving", "online", "paper",
)  # fmt: skip


def run_part(name: str, tiny: bool) -> dict[str, Any] | None:
    """The result of a part, or None if it failed."""
    say(f"== {name}")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(out), *(["--tiny"] if tiny else [])]
        done = subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=False)
        if done.returncode or not out.exists():
            say(f"{name} failed with exit code {done.returncode}")
            return None
        found: dict[str, Any] = json.loads(out.read_text())
        return found | {"seconds": time.perf_counter() - began}


def page(parts: dict[str, Any]) -> str:
    """The table of all parts, with where and when it was measured."""
    lines = [line for name in PARTS if name in parts for line in parts[name]["lines"]]
    about = sorted({where(part["machine"]) for part in parts.values()})
    dates = sorted(part["machine"]["date"][:10] for part in parts.values())
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    took = sum(part.get("seconds", 0) for part in parts.values()) / 60
    return f"{table(lines)}\n\nMeasured {when} by `make bench` in {took:.0f} minutes on {'; '.join(about)}.\n"


def shown(readme: str, parts: dict[str, Any]) -> str:
    """The README with the lines that have a target, between its two marks."""
    before, _, rest = readme.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    if not after:
        return readme
    lines = [{**line, "note": ""} for name in PARTS if name in parts for line in parts[name]["lines"] if line["target"]]
    rows = [row.rsplit("|", 2)[0] + "|" for row in table(lines).splitlines()]  # no notes here
    told = page(parts).strip().splitlines()[-1]
    return "\n".join([before + MARKS[0], "", *rows, "", told, "", MARKS[1] + after])


def where(machine: dict[str, Any]) -> str:
    """A machine and its versions in one phrase."""
    known = machine["versions"]
    versions = ", ".join(f"{name} {known[name]}" for name in ("torch", "transformers", "trl") if known.get(name))
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['torch_threads']} threads ({versions})"


def main() -> int:
    """Run the parts named on the command line, or all; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"which: {', '.join(PARTS)}; default all")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to see that everything works")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    RESULTS.mkdir(exist_ok=True)
    file = HERE.parent / "build" / "bench-tiny.json" if options.tiny else RESULTS / "bench.json"
    file.parent.mkdir(exist_ok=True)
    parts = json.loads(file.read_text())["parts"] if file.exists() else {}
    failed, began = [], time.perf_counter()
    for name in options.parts or PARTS:
        found = run_part(name, options.tiny)
        if found is None:
            failed.append(name)
            continue
        parts[name] = found
        file.write_text(json.dumps({"parts": parts}, indent=1) + "\n")
    if parts:
        print(page(parts))
    if parts and not options.tiny:
        (RESULTS / "bench.md").write_text(page(parts))
        README.write_text(shown(README.read_text(encoding="utf-8"), parts), encoding="utf-8")
        if "optimizers" in parts:
            write_page(parts["optimizers"]["raw"], f"MiB; {where(parts['optimizers']['machine'])}, by `make bench`.")
        if "scale" in parts:
            (RESULTS / "curves.svg").write_text(draw(parts["scale"]["raw"]["curves"]))
    say(f"{time.perf_counter() - began:.0f} s" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
