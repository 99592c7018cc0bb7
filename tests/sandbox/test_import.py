"""Judges and curators are imported by `list` and `show`: they must not bring torch in."""

from __future__ import annotations

import subprocess
import sys


def test_no_torch():
    code = (
        "import sys; from holdfast.axes.registry import REGISTRY, find_method\n"
        "for axis in ('judges', 'curators'):\n"
        "    for name in REGISTRY[axis]:\n"
        "        find_method(axis, name)\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'too much imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
