"""Numbers of rows that are computed once, from the untouched model, and kept on disk: by row and role, or by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from holdfast.core.files import fresh_file
from holdfast.errors import UserError
from holdfast.models.saving import give_rights

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch


class RowValues:
    """Numbers of each sequence, by (row, role): of each label, or any fixed number of them."""

    def __init__(self, tensors: dict[str, Tensor] | None = None, name: str = "") -> None:
        """`stored`: what `tensors` gave; `name`: what an error calls them."""
        self.name = name
        self.values: dict[tuple[int, int], Tensor] = {}
        if tensors is not None:
            pieces = tensors["values"].split(tensors["keys"][:, 2].tolist())
            self.values = {(row, role): v for (row, role, _), v in zip(tensors["keys"].tolist(), pieces, strict=True)}

    def find_values(self, batch: Batch) -> Tensor | None:
        """The numbers of all sequences of `batch` one after another (those of its labels: [N]); `None` if some lack."""
        keys = _sequence_keys(batch)
        pieces = [self.values[key] for key in keys if key in self.values]
        if len(pieces) < len(keys):
            return None
        return torch.cat(pieces).to(batch.labels.device)

    def get_values(self, batch: Batch, by: Literal["label", "sequence"] = "label") -> Tensor:
        """What `set_values` stored of the labels of `batch`, [N, width], or of its sequences, [S, width].

        Raises:
            UserError: If some of them were never stored.
        """
        values = self.find_values(batch)
        if values is None:
            row = next(row for row, role in _sequence_keys(batch) if (row, role) not in self.values)
            raise UserError(
                f"the objective finds nothing in policy.store.rows[{self.name!r}] of row {row + 1}: its `precompute` "
                "must `set_values` something there of every batch that it is given"
            )
        return values.view(len(batch.labels) if by == "label" else batch.n_sequences, -1)

    def set_values(self, batch: Batch, values: Tensor, by: Literal["label", "sequence"] = "label") -> None:
        """Store `values` [N, ...] of the labels of `batch`, or [S, ...] of its sequences, flat."""
        counts = torch.bincount(batch.sequence, minlength=batch.n_sequences).tolist()
        pieces = values.detach().cpu().split(counts if by == "label" else 1)
        self.values.update(zip(_sequence_keys(batch), (p.flatten().clone() for p in pieces), strict=True))

    def clear_values(self) -> None:
        """Forget all of it: rows of these numbers are others from now on."""
        self.values.clear()

    def to_tensors(self) -> dict[str, Tensor]:
        """All of it in two tensors, to be saved."""
        keys = torch.tensor([(row, role, len(v)) for (row, role), v in self.values.items()])
        return {"keys": keys, "values": torch.cat(list(self.values.values()))}


class ReferenceCache(RowValues):
    """Log-probabilities of the untouched model, by (row, role); in memory, and on disk when it has a path.

    They are computed once, before the first step (`precompute`), and found again by a resumed or repeated run.
    """

    def __init__(self, path: Path | None = None) -> None:
        """`path`: a safetensors file, read if it exists; `in_directory` names it by what the numbers depend on."""
        super().__init__(_read_tensors(path) if path is not None else None)
        self.path = path

    @classmethod
    def in_directory(cls, directory: Path, *fingerprints: str) -> ReferenceCache:
        """The cache in `directory` for this model, table and precision."""
        return cls(directory / f"reference-{_hash_fingerprints(fingerprints)}.safetensors")

    def save(self) -> None:
        """Write to `path`, whole or not at all; nothing to do without one."""
        if self.path is not None and self.values:
            _write_tensors(self.to_tensors(), self.path)


class RowValuesByName(dict[str, RowValues]):
    """Numbers of each sequence by name; a name that is new gets an empty store."""

    def __missing__(self, name: str) -> RowValues:
        self[name] = RowValues(name=name)
        return self[name]


class PrecomputedStore:
    """What an objective computed from the untouched model before training.

    Args:
        directory: Where it is kept; `None`: only in memory.
        fingerprints: Of everything it depends on.
    Attributes:
        tensors: By name.
        rows: By name, numbers of each sequence; `rows["x"]` makes an empty one.
    """

    def __init__(self, directory: Path | None = None, *fingerprints: str) -> None:
        self.path = directory / f"prepared-{_hash_fingerprints(fingerprints)}.safetensors" if directory else None
        self.tensors: dict[str, Tensor] = {}
        self.rows = RowValuesByName()
        tensors = _read_tensors(self.path) if self.path is not None else None
        self.is_loaded = tensors is not None
        self._assign_tensors(tensors or {})

    def _assign_tensors(self, tensors: dict[str, Tensor]) -> None:
        for key, value in tensors.items():
            sort, _, name = key.partition(".")
            if sort == "tensor":
                self.tensors[name] = value
            elif sort == "keys":
                self.rows[name] = RowValues({"keys": value, "values": tensors[f"values.{name}"]}, name)

    def save(self) -> None:
        """Write it, whole or not at all."""
        if self.path is None:
            return
        out = {f"tensor.{name}": value.contiguous().cpu() for name, value in self.tensors.items()}
        for name, rows in self.rows.items():
            out |= {f"{part}.{name}": value for part, value in rows.to_tensors().items()}
        _write_tensors(out, self.path)

    def to(self, device: torch.device) -> None:
        """Move the tensors; numbers of sequences follow the batches."""
        self.tensors = {name: value.to(device) for name, value in self.tensors.items()}


def _hash_fingerprints(fingerprints: Iterable[str]) -> str:
    return hashlib.sha256("|".join(fingerprints).encode()).hexdigest()[:24]


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(path) as side:
        save_file(tensors, side, metadata={"sha256": _hash_tensors(tensors)})
    give_rights(path.parent)


def _read_tensors(path: Path) -> dict[str, Tensor] | None:
    """What `_write_tensors` wrote; `None`, so that it is computed again, where there is nothing, or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            digest = (file.metadata() or {}).get("sha256")
    except (FileNotFoundError, SafetensorError):
        return None
    return tensors if digest == _hash_tensors(tensors) else None


def _hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sequence_keys(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.rows.tolist(), batch.roles.tolist(), strict=True))
