"""A round that is trained on in several steps, on disk: after its first step, who wrote it is there no more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from holdfast.core.files import fresh_file
from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.pictures.processor import PictureProcessor, SequencePictures
from holdfast.errors import RunError
from holdfast.training.rounds import PlayedRound


def save_round(path: Path, round_: PlayedRound, names: Sequence[str]) -> None:
    """Keep a round's sequences, of each label the numbers of these names, and the round's figures."""
    tensors = {"number": np.array([round_.number])}
    tensors |= {f"figure.{name}": np.array(pair, dtype=np.float64) for name, pair in round_.figures.items()}
    tensors |= {"lengths": np.array([len(s.ids) for s in round_.sequences], dtype=np.int64)}
    if round_.sequences:
        tensors |= {"ids": np.concatenate([s.ids for s in round_.sequences])}
        tensors |= {"labels": np.concatenate([s.label_mask for s in round_.sequences])}
        tensors |= {"pictures": pack_pictures(round_.sequences)}
        for name in names:
            tensors[f"value.{name}"] = np.concatenate([s.token_values[name] for s in round_.sequences])
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(path) as side:
        save_file(tensors, side)


def load_round(path: Path, number: int, unit: int, processor: PictureProcessor | None = None) -> PlayedRound:
    """The round as it was kept.

    Args:
        unit: Sequences of a row.
        processor: Makes pixels of pictures.
    Raises:
        RunError: If it is not there, or another one.
    """
    tensors = load_file(path) if path.exists() else {}
    if not tensors or int(tensors["number"][0]) != number:
        raise RunError(f"{path}: is not of round {number}, in which the run stopped; run it anew (--restart)")
    cuts = np.cumsum(tensors["lengths"])[:-1]
    names = [name for name in tensors if name.startswith("value.")]
    parts = {name: np.split(tensors[name], cuts) for name in ("ids", "labels", *names) if name in tensors}
    sequences, count = [], len(tensors["lengths"])
    pictures = unpack_pictures(tensors.get("pictures", np.zeros(0, dtype=np.uint8)), processor, count)
    for row in range(count):
        ids, labels = parts["ids"][row], parts["labels"][row]
        sequence = EncodedSequence(ids, labels, row // unit, row % unit, pictures=pictures[row])
        sequence.token_values = {name.removeprefix("value."): parts[name][row] for name in names}
        sequences.append(sequence)
    pairs = {name: tensors[name].tolist() for name in tensors if name.startswith("figure.")}
    return PlayedRound(number, sequences, {n.removeprefix("figure."): (p[0], p[1]) for n, p in pairs.items()})


def pack_pictures(sequences: Sequence[EncodedSequence]) -> np.ndarray:
    """The references of the sequences' pictures as bytes, uint8 [n]; none where no sequence has any."""
    references = [one.pictures.references if one.pictures else [] for one in sequences]
    return np.frombuffer(json.dumps(references).encode() if any(references) else b"", dtype=np.uint8)


def unpack_pictures(
    picture_bytes: np.ndarray, processor: PictureProcessor | None, count: int
) -> list[SequencePictures | None]:
    """The pictures of `count` sequences, as `pack_pictures` put them down; `processor` makes pixels of them."""
    many: list[list[str]] = json.loads(picture_bytes.tobytes()) if len(picture_bytes) else [[]] * count
    return [SequencePictures(one, processor) if one and processor else None for one in many]
