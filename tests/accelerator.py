"""Which tests run in which session: those marked `gpu` in one that may see an accelerator, all others in any other."""

from __future__ import annotations


def skip_reason(is_for_gpu: bool, may_see_accelerator: bool, is_there: bool) -> str:
    """Why a test is skipped; empty where it runs.

    Args:
        is_for_gpu: Whether it is marked `gpu`.
        may_see_accelerator: Of the session: `make test-gpu`.
        is_there: Whether torch finds an accelerator.
    """
    if not is_for_gpu:
        return "runs on the CPU: make test" if may_see_accelerator else ""
    if not may_see_accelerator:
        return "runs on an accelerator: make test-gpu"
    return "" if is_there else "torch finds no accelerator here"
