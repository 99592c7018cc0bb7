"""The exchange between server and clients: a small interface, so that a round may run here or on other machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from holdfast.pipeline.federated.client import Client


@dataclass(frozen=True, slots=True)
class ClientReply:
    """What a client sends back.

    Args:
        client: Its name, as in "007".
        tensors: What travels, by name, on the CPU.
        units: What its loss is divided by over all its rows: how much it has to say.
        metrics: What it tells of its training: `steps`, `loss`, `tokens`, `density`.
        failure: Why there is no reply; everything else is empty then.
    """

    client: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    units: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str = ""


class ClientExchange(Protocol):
    """Lets clients train. What clients keep between rounds is theirs."""

    def run_round(self, number: int, chosen: Sequence[str], payload: dict[str, Tensor]) -> Iterator[ClientReply]:
        """Replies to round `number`, from 0, as they come.

        Args:
            chosen: Names of the clients that take part.
            payload: What the server sends to each of them.
        """

    def close(self) -> None: ...


class InlineExchange:
    """All clients in this process, one after another."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def run_round(self, number: int, chosen: Sequence[str], payload: dict[str, Tensor]) -> Iterator[ClientReply]:
        for name in chosen:
            yield self.client.train_round(name, number, payload)

    def close(self) -> None:
        """There is nothing to close."""


PAYLOAD = "payload.safetensors"
"""What the server sent: in its folder of a round, and in that of each client that took part."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, of whatever strides, by name."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def round_folder(root: Path, number: int) -> Path:
    """Where the server keeps a round."""
    return root / "rounds" / f"{number:04d}"


def client_folder(root: Path, name: str) -> Path:
    """Where a client keeps what is its own."""
    return root / "clients" / name


def name_clients(count: int) -> list[str]:
    """Their names, in order."""
    return [f"{index:03d}" for index in range(count)]


def reply_line(reply: ClientReply) -> dict[str, Any]:
    """A reply without its tensors, as JSON."""
    return {"client": reply.client, "units": reply.units, "metrics": reply.metrics, "failure": reply.failure}
