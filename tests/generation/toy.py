"""A deterministic engine without a model, and a program that samples with it until it is killed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.generation.journal import Journal, sample_seed


class ToyEngine:
    """Answers with words that depend on the seed, the key and the index, in an order of its own."""

    def __init__(self, pause: float = 0.0, fingerprint: str = "toy") -> None:
        self.pause, self.fingerprint, self.drawn = pause, fingerprint, 0

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        jobs = [(request, index) for request, indexes in requests for index in indexes]
        for request, index in sorted(jobs, key=lambda job: sample_seed(1, job[0].key, job[1])):
            time.sleep(self.pause)
            self.drawn += 1
            seed = sample_seed(params.seed, request.key, index)
            text = f"{request.messages[-1]['content']} {seed % 1000}\nzwölf \ud83d" * (1 + seed % 40)
            yield Sample(request.key, index, text, "stop" if seed % 3 else "length", seed % 17)


def asked(count: int) -> list[Request]:
    return [Request(f"key {i}", [{"role": "user", "content": f"question {i}"}]) for i in range(count)]


if __name__ == "__main__":
    with Journal(sys.argv[1]) as journal:
        for number in range(20):
            if journal.recall_fact("verdict", number) is None:
                journal.record_fact("verdict", number, {"passed": number % 2 == 0})
        journal.build_sample_fn(ToyEngine(pause=0.001))(asked(100), SamplingParams(n=4))
