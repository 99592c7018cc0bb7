"""`make bench`: every benchmark one after another; tables on the screen, JSON under benchmarks/results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BENCHMARKS = {
    "sampling": ["sampling.py", "--model", "lab", "--out", str(RESULTS / "sampling.json")],
    "data": ["data.py", "200000"],
}


def main() -> int:
    """Run the benchmarks named on the command line, or all; the exit code is the first that failed."""
    RESULTS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or BENCHMARKS:
        script, *arguments = BENCHMARKS[name]
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / script), *arguments], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
