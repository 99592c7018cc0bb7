"""Curation shared out: the parts together sample what one process does, and `--join` takes nothing else."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.core.progress import Progress
from holdfast.errors import UserError
from holdfast.pipeline.curate import curate_only, curate_shard
from holdfast.pipeline.shards import Shard
from holdfast.recipe.loader import ResolvedRecipe, resolve_any
from processes import Process

RECIPE = """
model: lab-small
data: {train: lab:sums, limit: 16, test: 0}
curate: {name: s3ft}
sampling: {max_tokens: 12, temperature: 0.7}
evaluate: {keep: [none], target: none}
train: {max_steps: 1}
"""


def recipe_of(place: Path, *changes: str) -> ResolvedRecipe:
    (place / "run.yaml").write_text(f"{RECIPE}output: {place}/run\n", encoding="utf-8")
    return resolve_any(place / "run.yaml", list(changes))


def lines_of(journal: Path) -> list[str]:
    return journal.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def whole(make_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """What one process samples and curates."""
    return make_once("whole-curation", lambda place: curate_only(recipe_of(place))) / "run"


def test_parts_joined_are_the_whole(whole: Path, tmp_path: Path) -> None:
    recipe, run = recipe_of(tmp_path), tmp_path / "run"
    with pytest.raises(UserError, match="there are no shards; run holdfast curate RECIPE --shard 1/2"):
        curate_only(recipe, join=True)
    assert curate_shard(recipe, "2/3") == run / "shards/2-of-3"
    with pytest.raises(UserError, match=r"2 of 3 shards not there or not finished: 1, 3; run .* --shard 1/3, and so"):
        curate_only(recipe, join=True)
    curate_shard(recipe, "1/2")  # which has rows of 2/3 too
    curate_shard(recipe, "2/2")
    journals = sorted(run.glob("shards/*/samples.jsonl"))
    parts = [lines_of(journal) for journal in journals]
    union = {line for part in parts for line in part}
    journals[0].write_bytes(journals[0].read_bytes() + b'{"kind": "sample", "id"')  # torn by a kill
    said: list[str] = []
    ui = Progress.create_silent()
    ui.write_line = said.append  # type: ignore[method-assign]
    path = curate_only(recipe, join=True, ui=ui)
    assert sorted(lines_of(run / "samples.jsonl")) == sorted(lines_of(whole / "samples.jsonl")) == sorted(union)
    assert path.read_bytes() == (whole / "curated.jsonl").read_bytes()
    twice = sum(map(len, parts)) - len(union)
    assert twice
    assert f"3 shards: {len(union)} samples taken over; {twice} were there before" in said

    (run / "curated.jsonl").unlink()
    before = (run / "samples.jsonl").read_bytes()
    curate_only(recipe, join=True)
    curate_shard(recipe, "2/3")
    assert (run / "samples.jsonl").read_bytes() == before, "joined or sampled again, nothing is drawn or written twice"
    assert lines_of(journals[-1]) == parts[-1]


def test_what_shards_hold_is_not_drawn_again_without_a_join(whole: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    part = curate_shard(recipe, "1/2")
    own = lines_of(part / "samples.jsonl")
    rows = curate_only(recipe)
    assert sorted([*own, *lines_of(tmp_path / "run/samples.jsonl")]) == sorted(lines_of(whole / "samples.jsonl"))
    assert rows.read_bytes() == (whole / "curated.jsonl").read_bytes()


def find_children(pid: int) -> list[int]:
    """The processes that a process has started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parent == pid]


def wait_until(is_so: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
def test_a_pool_killed_with_its_main_process_leaves_nothing_and_loses_nothing(whole: Path, tmp_path: Path) -> None:
    """SIGKILL to the one that writes: workers end by themselves, and the next run goes on, with equal samples.

    It may have another number of workers, here one: what its processes draw is what one draws.
    """
    recipe_of(tmp_path)
    samples = tmp_path / "run/samples.jsonl"
    words = ["curate", tmp_path / "run.yaml", "sampling.workers=2", "sampling.slots=1"]
    process = Process(["-m", "holdfast", *words])
    wait_until(lambda: process.has_ended() or len(find_children(process.pid)) == 2)
    workers = find_children(process.pid)
    wait_until(lambda: process.has_ended() or (samples.exists() and samples.stat().st_size > 0))
    process.kill()
    assert (process.wait(), len(workers)) == (-signal.SIGKILL, 2)
    before = [line for line in samples.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 0 < len(before) < len(lines_of(whole / "samples.jsonl")), "it was killed while they sampled"
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    path = curate_only(recipe_of(tmp_path))
    assert samples.read_bytes().startswith(b"".join(before)), "nothing that was there is drawn again"
    assert sorted(lines_of(samples)) == sorted(lines_of(whole / "samples.jsonl"))
    assert path.read_bytes() == (whole / "curated.jsonl").read_bytes()


def test_a_shard_of_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "data.limit=2")
    curate_shard(recipe, "1/1")
    with pytest.raises(UserError, match=r"shards/1-of-1: is a shard of another recipe: sampling.max_tokens is 9 here"):
        curate_only(recipe_of(tmp_path, "data.limit=2", "sampling.max_tokens=9"), join=True)
    state = tmp_path / "run/shards/1-of-1/run.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "shard": {"finished": False}}))
    with pytest.raises(UserError, match="1 of 1 shards not there or not finished: 1"):
        curate_only(recipe, join=True)
    assert not (tmp_path / "run/samples.jsonl").exists(), "refused before anything is written"


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ("curate=[{name: gold}]", ["--shard", "1/2"], "no curator of this recipe samples"),
        ("output=runs/{time}", ["--shard", "1/2"], "output: runs/{time} is another directory at every start"),
        ("curate=[{name: memory_levels}]", ["--join"], "what curator memory_levels samples for one row depends on"),
        ("curate=[{name: generate, budget: 9}]", ["--shard", "1/2"], "what curator generate samples for one row"),
        ("train.seed=1", ["--shard", "0/2"], "--shard: 0/2: parts of 2 are numbered from 1/2 to 2/2"),
        ("train.seed=1", ["--shard", "2"], "--shard: 2 is not I/N, as in 3/64"),
        ("train.seed=1", ["--shard", "1/2", "--explain"], "--explain: a shard only samples"),
        ("train.seed=1", ["--shard", "1/2", "--join"], "--join: a shard only samples"),
    ],
)
def test_what_cannot_be_shared_out_is_one_line(change: str, words: list[str], said: str, tmp_path: Path) -> None:
    recipe_of(tmp_path)
    done = CliRunner().invoke(app, ["curate", str(tmp_path / "run.yaml"), change, *words])
    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_parts_are_numbered_from_one() -> None:
    assert [str(Shard.parse(text)) for text in ("1/1", " 3/64 ")] == ["1/1", "3/64"]
    with pytest.raises(UserError, match="from 1/2 to 2/2"):
        Shard.parse("3/2")
