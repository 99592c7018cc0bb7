"""Two processes, a card each, with whole copies (DDP) or shards (FSDP2), end where one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import spread
import torch

SCRIPT = Path(__file__).parents[1] / "training" / "spread.py"
KINDS = {"ddp": {}, "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.accelerator.device_count() < 2, reason="needs two accelerators: NCCL gives each one rank"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_end_where_one_does(kind: str, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=900,
        env=os.environ | KINDS[kind],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((tmp_path / "said.json").read_text())
    for case in spread.CASES:
        assert said[case]["world"] == 2
        assert said[case]["sharded"] == (kind == "fsdp2")
        alone = spread.trainer(case, tmp_path / "alone" / case).fit()
        assert said[case]["loss"] == pytest.approx(alone.loss, abs=1e-4)
        assert said[case]["tokens"] == alone.tokens
