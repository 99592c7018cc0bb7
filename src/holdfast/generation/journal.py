"""The journal: every sample and judgement of a run on disk as it happens, so that a killed run repeats none of them.

One JSON object a line, each flushed when it is written. A sample is identified by everything it depends on (engine,
prompt, parameters, request key, index), so that one journal serves many passes over many prompts.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from holdfast.axes.engine import Engine, Request, Sample, SampleFn, SamplingParams
from holdfast.core.files import lock_file, replace_file
from holdfast.core.interrupts import defer_interrupts
from holdfast.data.pictures.references import identify_pictures
from holdfast.data.rows import fingerprint_json
from holdfast.errors import UserError

SYNC_SECONDS = 5.0
"""Longest time between two `fsync`s. A killed process loses nothing in any case; a power cut at most this much."""


def sample_seed(seed: int, key: str, index: int) -> int:
    """The 64-bit seed of one sample: it depends on nothing but the run's seed, the request's key and the index."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}\0{index}".encode(), digest_size=8).digest(), "little")


class Journal:
    """Append-only record of samples and judgements.

    Args:
        path: The JSONL file; made when missing, along with its directory. A last line torn by a kill is cut off, and
            lines whose parts are of the wrong types are removed. `None` for one that ends with the process.
        parents: Journals of other runs, which are only read: what they hold is not drawn again. Names of samples say
            all that these depend on, so a sample of another run is the same. One that is not there holds nothing.
    Raises:
        UserError: If another process has the journal open, or a line in it is not one the journal wrote.
    """

    def __init__(self, path: str | Path | None, parents: Sequence[Path] = ()) -> None:
        self.path = Path("journal" if path is None else path)
        self._samples: dict[str, Sample] = {}
        self._facts: dict[str, Any] = {}
        self._tokens = 0
        self._file: IO[bytes]
        if path is None:
            self._file = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by close()
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115 - closed by close()
        self._synced = time.monotonic()
        try:
            self._lock_file()
            self._read_parents(parents)
            self._read_lines()
        except BaseException:
            self._file.close()
            raise

    @property
    def sampled_tokens(self) -> int:
        """Tokens of all samples in the file, drawn now or by an earlier run of the same directory."""
        return self._tokens

    def __len__(self) -> int:
        """Number of samples, those of its parents included."""
        return len(self._samples)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Bring everything to the disk and release the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def build_sample_fn(self, engine: Engine, together: bool = False) -> SampleFn:
        """A `SampleFn` that asks `engine` only for what the journal does not hold.

        `on_sample` is called once for every sample of the call: first for those held, then for the new ones as they
        arrive, each after it is on record.

        Args:
            together: Draw all samples of a call where one of them is missing; what is on record stays as it is. What
                else decodes beside a sample may change the last bits of its logits, so a call that was cut short gives
                for certain what it would have given only if it is drawn as it was. It costs one call at most.
        """

        def draw_samples(
            requests: Sequence[Request], params: SamplingParams, on_sample: Callable[[Sample], Any] | None = None
        ) -> dict[str, list[Sample]]:
            names = self._sample_names(engine, requests, params)
            old_samples = [self._samples[name] for name in names.values() if name in self._samples]
            for sample in old_samples:
                if on_sample:
                    on_sample(sample)
            missing = [(r, [i for i in range(params.n) if names[r.key, i] not in self._samples]) for r in requests]
            missing = [(request, indexes) for request, indexes in missing if indexes]
            if together and missing:
                missing = [(request, list(range(params.n))) for request in requests]
            on_record = {(sample.key, sample.index) for sample in old_samples} if together else set()
            for sample in engine.sample(missing, params) if missing else ():
                if (sample.key, sample.index) in on_record:
                    continue
                self._record_sample(names[sample.key, sample.index], sample)
                if on_sample:
                    on_sample(sample)
            return {r.key: [self._samples[names[r.key, i]] for i in range(params.n)] for r in requests}

        return draw_samples

    def take_over(self, paths: Sequence[Path]) -> Counter[str]:
        """Write what other journals record into this one: of each sample and fact the first, in the order of `paths`.

        Nobody may be writing them; a last line that a kill tore is none.

        Returns:
            How many "samples" are new, how many were there "again", and how many of these are "unequal".
        Raises:
            UserError: If another process has one open, or a line in it is not one that a journal wrote.
        """
        counts: Counter[str] = Counter()
        for path in paths:
            with path.open("r+b") as file:
                lock_file(file, f"{path}: another run is writing it; wait for it")
                for number, line in enumerate(file, start=1):
                    if line.endswith(b"\n"):
                        self._take_line(line, f"{path}:{number}", counts)
        return counts

    def _take_line(self, line: bytes, place: str, counts: Counter[str]) -> None:
        entry = parse_entry(line, place)
        if entry is None or entry.name in self._facts:
            return
        if (held_sample := self._samples.get(entry.name)) is not None:
            counts.update(again=1, unequal=held_sample != entry.sample)
            return
        with defer_interrupts():
            self._append_bytes(line)
            self._hold_entry(entry)
        counts.update(samples=entry.sample is not None)

    def record_fact(self, kind: str, key: Any, value: Any) -> None:
        """Put the JSON-able `value` of `key` on record, so that a run started again need not compute it again."""
        name = fingerprint_json([kind, key])
        self._facts[name] = value
        with defer_interrupts():
            self._append_line({"kind": kind, "id": name, "value": value})

    def recall_fact(self, kind: str, key: Any, default: Any = None) -> Any:
        """What `record_fact` recorded for `key`, or `default`."""
        return self._facts.get(fingerprint_json([kind, key]), default)

    def _sample_names(
        self, engine: Engine, requests: Sequence[Request], params: SamplingParams
    ) -> dict[tuple[str, int], str]:
        """The journal's name of each (request key, index)."""
        names: dict[tuple[str, int], str] = {}
        common_parts = [engine.fingerprint, params.model_dump(exclude={"n"}, exclude_none=True, mode="json")]
        for request in requests:
            if (request.key, 0) in names:
                raise ValueError(f"two requests share the key {request.key!r}; keys must differ")
            judging = [request.judging.fingerprint] if request.judging else []
            messages = identify_pictures(request.messages)
            prompt = fingerprint_json([*common_parts, request.key, messages, request.prefill, *judging])
            for index in range(params.n):
                names[request.key, index] = f"{prompt[:32]}-{index}"
        return names

    def _record_sample(self, name: str, sample: Sample) -> None:
        if not is_sample(sample):  # nothing could read it, now or after the next start
            raise TypeError(f"the engine gave what is no sample: {sample!r}")
        if name in self._samples:
            raise ValueError(f"the engine drew sample {sample.index} of {sample.key!r} twice")
        with defer_interrupts():
            self._append_line({"kind": "sample", "id": name, **describe_sample(sample)})
            self._hold_entry(_Entry(name, sample))

    def _hold_entry(self, entry: _Entry) -> None:
        if entry.sample is None:
            self._facts[entry.name] = entry.value
        else:
            self._samples[entry.name] = entry.sample
            self._tokens += entry.sample.tokens

    def _append_line(self, line: dict[str, Any]) -> None:
        # A lone surrogate (half a character, which a model may write) has no UTF-8 form; JSON's escape keeps it.
        self._append_bytes(json.dumps(line).encode() + b"\n")

    def _append_bytes(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _read_parents(self, parents: Sequence[Path]) -> None:
        """Hold what other journals record, whole lines of it: their runs may be at work."""
        for path in parents:
            if path.exists():
                with path.open("rb") as file:
                    for number, line in enumerate(file, start=1):
                        if line.endswith(b"\n"):
                            self._load_line(line, f"{path}:{number}")
        self._tokens = 0  # which were spent by others

    def _read_lines(self) -> None:
        self._file.seek(0)
        whole, bad = 0, []
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):  # the process was killed in the middle of writing it
                self._file.truncate(whole)
                break
            if not self._load_line(line, f"{self.path}:{number}"):
                bad.append((whole, whole + len(line)))
            whole += len(line)
        self._file.seek(0, os.SEEK_END)
        if bad:
            self._remove_lines(bad)

    def _load_line(self, line: bytes, place: str) -> bool:
        """Hold what a line records; whether it is a sample or a fact that can be used."""
        if (entry := parse_entry(line, place)) is not None:
            self._hold_entry(entry)
        return entry is not None

    def _remove_lines(self, bad: Sequence[tuple[int, int]]) -> None:
        """Write the journal again without some lines, given by where they begin and end: they are drawn again."""
        self._file.seek(0)
        data = self._file.read()
        ends = [0, *(end for _, end in bad)]
        remainder = b"".join(data[end:begin] for end, (begin, _) in zip(ends, bad, strict=False)) + data[ends[-1] :]
        self._file.close()
        replace_file(self.path, remainder)
        self._file = open(self.path, "a+b")  # noqa: SIM115 - closed by close()
        self._lock_file()

    def _lock_file(self) -> None:
        lock_file(self._file, f"{self.path}: another run is writing it; wait for it, or choose another output")


class _Entry(NamedTuple):
    """What a line records: a sample, or the value of a fact."""

    name: str
    sample: Sample | None
    value: Any = None


def parse_entry(line: bytes, place: str) -> _Entry | None:
    """What a line of a journal records; `None` where it is no sample or fact that can be used.

    Args:
        place: File and line, for the error.
    Raises:
        UserError: If it is no line of a journal at all.
    """
    mend = f"{place}: not a line of a sample journal; remove the line or the file"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(mend) from error
    if not isinstance(entry, dict) or not {"kind", "id"} <= entry.keys():
        raise UserError(mend)
    if not isinstance(entry["id"], str):
        return None
    if entry["kind"] != "sample":
        return _Entry(entry["id"], None, entry.get("value"))
    if not entry.keys() >= NEEDED:
        raise UserError(mend)
    sample = parse_sample(entry)
    return None if sample is None else _Entry(entry["id"], sample)


NEEDED = {"key", "index", "text", "finish", "tokens"}
"""Fields that every sample has."""


def describe_sample(sample: Sample) -> dict[str, Any]:
    """A sample in plain data, without what says nothing."""
    fields: dict[str, Any] = {
        "key": sample.key,
        "index": sample.index,
        "text": sample.text,
        "finish": sample.finish,
    }
    thought = {"thought_tokens": sample.thought_tokens, "thought_cut": sample.thought_cut}
    fields |= {"tokens": sample.tokens, **(thought if sample.thought_tokens else {})}
    fields |= {"ids": sample.ids} if sample.ids else {}
    fields |= {"logps": sample.logps} if sample.logps else {}
    return fields | ({"trace": dict(sample.trace)} if sample.trace else {})


def parse_sample(entry: dict[str, Any]) -> Sample | None:
    """The sample in plain data; `None` where that is none."""
    if not entry.keys() >= NEEDED:
        return None
    fields = {name: entry[name] for name in Sample.__dataclass_fields__ if name in entry}
    fields |= {name: tuple(fields[name]) for name in ("ids", "logps") if isinstance(fields.get(name), list)}
    sample = Sample(**fields)
    return sample if is_sample(sample) else None


def is_sample(sample: Sample) -> bool:
    """Whether the parts of a sample are of the types that all its readers take for granted."""
    index, tokens = sample.index, sample.tokens
    numbers = all(type(value) is int and value >= 0 for value in (index, tokens, sample.thought_tokens))
    is_ids = type(sample.ids) is tuple and all(type(value) is int and value >= 0 for value in sample.ids)
    is_logps = type(sample.logps) is tuple and all(isinstance(value, float) for value in sample.logps)
    has_tokens = is_ids and is_logps and len(sample.logps) in (0, len(sample.ids))
    return has_tokens and (
        isinstance(sample.key, str) and isinstance(sample.text, str) and numbers and sample.finish in ("stop", "length")
    )
