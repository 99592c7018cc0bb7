"""Run a script in a process that may only take so long and so much. Started by `core.bounded`, never imported.

    python -I -S bounded_child.py SECONDS BYTES PATHS SCRIPT < request > answer

Exit code 77: it wanted more memory. The kernel ends it with SIGXCPU or SIGKILL when it has computed for too long.
"""

import runpy
import sys


def main() -> int:
    """Set the limits, then run the script as a program."""
    seconds, most, paths, script = sys.argv[1:]
    try:
        import resource
    except ImportError:  # Windows has no limits for a process; the caller's own clock ends it there
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":  # elsewhere address space is not limited, or is counted in other ways
            resource.setrlimit(resource.RLIMIT_AS, (int(most), int(most)))
    sys.path[:0] = paths.split("\n")
    try:
        runpy.run_path(script, run_name="__main__")
    except MemoryError:
        return 77
    return 0


if __name__ == "__main__":
    sys.exit(main())
