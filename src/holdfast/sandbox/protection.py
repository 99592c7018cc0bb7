"""What the sandbox's walls mean on this machine, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {
    "mount_namespace": "a file system with nothing but the Python library",
    "process_namespace": "process numbers of its own",
    "network_namespace": "no network",
    "call_filter": "a system-call filter",
    "own_user": "a user of its own",
}


def describe_walls(walls: Mapping[str, Any], backend: str = "own") -> str:
    """What keeps a program of the model from this machine, and what does not.

    Args:
        walls: Of `Sandbox.walls`.
        backend: The judge's.
    """
    standing = [f"Landlock (version {walls['landlock']})"] if walls["landlock"] else []
    standing += [words for name, words in NAMES.items() if walls[name]]
    around = "" if backend == "own" else f", inside {backend}"
    text = f"code of the model runs apart from its tests, behind {', '.join(['limits', *standing])}{around}"
    missing = find_gaps(walls) if backend == "own" else []
    if not missing:
        return f"{text}; it can reach no file, process, key or network of yours"
    return (
        f"{text}. Not protected here: {'; '.join(missing)}. See judge.backend (bwrap, docker) or use a virtual machine"
    )


def find_gaps(walls: Mapping[str, Any]) -> list[str]:
    """What a program can reach because a wall is missing."""
    out = []
    if not walls["landlock"] and not walls["mount_namespace"]:
        who = "everybody" if walls["own_user"] else "you"
        out.append(
            f"files that {who} may read, from a program that gets around Python (no Landlock, no user namespaces)"
        )
    elif not walls["mount_namespace"]:
        out.append("names and sizes of files (no mount namespace, as in most containers)")
    if not walls["call_filter"]:
        out.append("processes and the network, from a program that gets around Python (no system-call filter here)")
    return out


def describe_own_function(walls: Mapping[str, Any]) -> str:
    """The same for a function of the user's, which may read files."""
    text = "your judge's function runs in a process of its own that may read your files"
    if walls["call_filter"]:
        return f"{text}, and may not write, start processes or reach the network"
    return f"{text}; that it does not write or reach the network only Python itself sees to here"
