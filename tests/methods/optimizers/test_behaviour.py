"""What `holdfast.testing` asks of every optimizer, of every registered one."""

from __future__ import annotations

import pytest

from holdfast.axes.registry import REGISTRY, find_method
from holdfast.testing.optimizers import CHECKS

NAMES = [*sorted(REGISTRY["optimizers"]), "textbook_sgd:SGD"]
"""The registered ones, and one as a user would add it."""


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_promises_of_its_axis(name, check, tmp_path):
    check(find_method("optimizers", name)(), tmp_path)
