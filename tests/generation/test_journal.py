"""The journal: killed at any moment, no sample is lost and none is recorded twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.errors import UserError
from holdfast.generation.journal import Journal, sample_seed

sys.path.insert(0, str(Path(__file__).parent))
from toy import ToyEngine, asked

PARAMS = SamplingParams(n=4)


def test_what_is_held_is_not_drawn_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / "samples.jsonl"
    engine, seen = ToyEngine(), list[Sample]()
    with Journal(path) as journal:
        first = journal.build_sample_fn(engine)(asked(3), PARAMS)
        assert engine.drawn == 12
        assert journal.build_sample_fn(engine)(asked(3), PARAMS) == first
        assert engine.drawn == 12
        more = journal.build_sample_fn(engine)(asked(5), PARAMS, seen.append)
        assert engine.drawn == 20
    assert [s.index for s in more["key 4"]] == [0, 1, 2, 3]
    assert Counter((s.key, s.index) for s in seen) == Counter((s.key, s.index) for v in more.values() for s in v)
    with Journal(path) as journal:
        assert journal.build_sample_fn(engine)(asked(5), PARAMS) == more
        assert len(journal) == engine.drawn == 20
        assert journal.sampled_tokens == sum(s.tokens for v in more.values() for s in v) > 0


def test_a_call_that_was_cut_short_is_drawn_whole_and_what_is_on_record_stays(tmp_path: Path) -> None:
    calls, seen = list[int](), list[Sample]()

    class OtherBesideOthers(ToyEngine):
        """What it draws depends, in the last place, on how much it draws together."""

        def sample(self, requests, params):
            requests = list(requests)
            calls.append(len(requests))
            for sample in super().sample(requests, params):
                yield replace(sample, text=f"{sample.text} {len(requests)}", ids=(1, 2), logps=(-0.5, -1.25))

    engine, path = OtherBesideOthers(), tmp_path / "s.jsonl"
    with Journal(tmp_path / "whole.jsonl") as journal:
        whole = journal.build_sample_fn(engine, together=True)(asked(6), PARAMS)
    with Journal(path) as journal, contextlib.suppress(KeyboardInterrupt):

        def stop(sample: Sample) -> None:
            seen.append(sample)
            if len(seen) == 7:
                raise KeyboardInterrupt

        journal.build_sample_fn(engine, together=True)(asked(6), PARAMS, stop)
    seen.clear()
    with Journal(path) as journal:
        assert len(journal) == 7
        draw = journal.build_sample_fn(engine, together=True)
        assert draw(asked(6), PARAMS, seen.append) == whole
        assert draw(asked(6), PARAMS) == whole
    assert calls == [6, 6, 6], "nothing more once all is on record"
    assert len({(s.key, s.index) for s in seen}) == len(seen) == 24
    assert len(path.read_text(encoding="utf-8").splitlines()) == 24


def test_more_samples_of_the_same_prompt_only_add(tmp_path: Path) -> None:
    engine = ToyEngine()
    with Journal(tmp_path / "s.jsonl") as journal:
        two = journal.build_sample_fn(engine)(asked(1), SamplingParams(n=2))
        five = journal.build_sample_fn(engine)(asked(1), SamplingParams(n=5))
    assert engine.drawn == 5
    assert five["key 0"][:2] == two["key 0"]


def test_whatever_a_sample_depends_on_makes_it_another(tmp_path: Path) -> None:
    request = Request("k", [{"role": "user", "content": "a"}])
    engine = ToyEngine()
    with Journal(tmp_path / "s.jsonl") as journal:
        journal.build_sample_fn(engine)([request], SamplingParams())
        for other, params, by in [
            (request, SamplingParams(seed=1), engine),
            (request, SamplingParams(temperature=0.5), engine),
            (request, SamplingParams(max_tokens=3), engine),
            (request, SamplingParams(stop=("x",)), engine),
            (Request("other", request.messages), SamplingParams(), engine),
            (Request("k", [{"role": "user", "content": "b"}]), SamplingParams(), engine),
            (Request("k", request.messages, prefill="So"), SamplingParams(), engine),
            (request, SamplingParams(), ToyEngine(fingerprint="another")),
        ]:
            held = len(journal)
            journal.build_sample_fn(by)([other], params)
            assert len(journal) == held + 1


def test_killed_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    rng = random.Random(0)
    kills = 0
    for _ in range(20):
        # A process group of its own, so that nothing but the program is hit.
        process = subprocess.Popen([sys.executable, str(Path(__file__).parent / "toy.py"), str(path)])
        size = path.stat().st_size if path.exists() else 0
        size += rng.randrange(1, 20_000)
        while process.poll() is None and (not path.exists() or path.stat().st_size < size):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() != 0
        if kills >= 4:
            break
        if process.returncode == 0:  # it was through before this process was given the processor
            path.unlink()
    assert kills >= 4
    with open(path, "ab") as file:
        file.write(b'{"kind": "sample", "id": "torn')  # what a kill within a write leaves
    assert subprocess.run([sys.executable, str(Path(__file__).parent / "toy.py"), str(path)]).returncode == 0

    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert set(Counter(line["id"] for line in lines).values()) == {1}
    assert len(lines) == 420
    engine = ToyEngine()
    with Journal(path) as journal, Journal(tmp_path / "whole.jsonl") as whole:
        assert journal.build_sample_fn(engine)(asked(100), PARAMS) == whole.build_sample_fn(ToyEngine())(
            asked(100), PARAMS
        )
        assert [journal.recall_fact("verdict", n) for n in range(20)] == [{"passed": n % 2 == 0} for n in range(20)]
    assert engine.drawn == 0


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_is_drawn_again_alone(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "s.jsonl"
    with Journal(path) as journal:
        before = journal.build_sample_fn(ToyEngine())(asked(4), PARAMS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    engine = ToyEngine()
    with Journal(path) as journal:
        assert len(journal) == 15
        assert journal.build_sample_fn(engine)(asked(4), PARAMS) == before
    assert engine.drawn == 1
    assert path.read_bytes() == whole


def test_facts_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    with Journal(path) as journal:
        journal.record_fact("verdict", ["a", 1], {"passed": True})
        journal.record_fact("verdict", ["a", 2], None)
        assert journal.recall_fact("verdict", ["a", 1]) == {"passed": True}
    with Journal(path) as journal:
        assert journal.recall_fact("verdict", ["a", 1]) == {"passed": True}
        assert journal.recall_fact("verdict", ["a", 2], "missing") is None
        assert journal.recall_fact("paraphrase", ["a", 1], "missing") == "missing"
        assert len(journal) == 0


def test_parents_are_read_and_left_alone(tmp_path: Path) -> None:
    engine, old, new = ToyEngine(), tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    with Journal(old) as journal:
        first = journal.build_sample_fn(engine)(asked(3), PARAMS)
        journal.record_fact("verdict", [1], True)
    old.write_bytes(old.read_bytes() + b'{"kind": "sample", "id"')  # another run is writing a line
    content = old.read_bytes()
    with Journal(new, parents=[old, tmp_path / "absent.jsonl"]) as journal:
        assert (len(journal), journal.sampled_tokens) == (12, 0)
        assert journal.recall_fact("verdict", [1]) is True
        more = journal.build_sample_fn(engine)(asked(4), PARAMS)
        assert journal.sampled_tokens == sum(sample.tokens for sample in more["key 3"])
    assert {key: more[key] for key in first} == first
    assert engine.drawn == 16  # 12 and the 4 that nobody held
    assert old.read_bytes() == content
    with Journal(new) as journal:
        assert len(journal) == 4  # only what it drew itself
    old.write_bytes(b"no line\n")
    with pytest.raises(UserError, match=r"old\.jsonl:1: not a line of a sample journal"):
        Journal(new, parents=[old])


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    with Journal(path), pytest.raises(UserError, match="another run"):
        Journal(path)
    Journal(path).close()


@pytest.mark.parametrize("line", ["not json", "[1]", '{"kind": "sample", "id": "x"}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"kind": "verdict", "id": "a", "value": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"s\.jsonl:2: "):
        Journal(path)
    path.write_text("")
    Journal(path).close()  # the refused file was not left locked


def test_two_requests_with_one_key_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "s.jsonl") as journal, pytest.raises(ValueError, match="key 0"):
        journal.build_sample_fn(ToyEngine())([*asked(1), *asked(1)], PARAMS)


def test_the_disk_is_asked_to_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr("holdfast.generation.journal.SYNC_SECONDS", 0.0)
    with Journal(tmp_path / "s.jsonl") as journal:
        journal.build_sample_fn(ToyEngine())(asked(2), PARAMS)
    assert len(synced) == 9


def test_seeds_are_fixed_and_spread() -> None:
    assert sample_seed(0, "a", 0) == sample_seed(0, "a", 0)
    names = [(seed, key, index) for seed in range(4) for key in ("a", "b", "a\0") for index in range(50)]
    seeds = {sample_seed(*name) for name in names}
    assert len(seeds) == len(names)
    assert max(seeds) > 2**63
