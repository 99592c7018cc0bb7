"""The server's side: rounds of an exchange, each written down when it is done, so that a killed run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.core.files import fresh_directory, read_json
from holdfast.errors import RunError
from holdfast.pipeline.federated.aggregation import count_bytes
from holdfast.pipeline.federated.exchange import ClientExchange, ClientReply, name_clients, round_folder, write_tensors
from holdfast.pipeline.run_dir import replace_json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from holdfast.pipeline.federated.aggregation import Aggregation
    from holdfast.pipeline.federated.settings import FederationSettings

RECORD, GLOBAL = "round.json", "global.safetensors"


@dataclass(frozen=True, slots=True)
class Round:
    """A round that is done.

    Args:
        number: From 0.
        record: `chosen` and `failed` clients, `bytes_down` and `bytes_up` of what travelled, and of the replies `loss`
            (mean over clients), `density`, `tokens`, `trained_tokens`, `steps`, `seconds`.
        payload: What the server sends from now on.
    """

    number: int
    record: dict[str, Any]
    payload: dict[str, Tensor]


def draw_clients(settings: FederationSettings, seed: int, number: int) -> list[str]:
    """The clients of a round, without replacement and in order: a function of seed and round alone."""
    import numpy as np

    names = name_clients(settings.clients)
    indexes = np.random.default_rng([seed, number, 1]).choice(len(names), settings.per_round, replace=False)
    return [names[index] for index in sorted(indexes.tolist())]


def run_rounds(
    root: Path, settings: FederationSettings, seed: int, aggregation: Aggregation, exchange: ClientExchange
) -> Iterator[Round]:
    """All rounds, those done before as they were written down.

    Raises:
        RunError: If no client of a round replied.
    """
    payload: dict[str, Tensor] = {}
    for number in range(settings.rounds):
        done = _read_round(root, number)
        if done is None:
            chosen = draw_clients(settings, seed, number)
            replies = sorted(exchange.run_round(number, chosen, payload), key=lambda reply: reply.client)
            done = _write_round(root, number, chosen, replies, payload, aggregation)
        payload = done.payload
        yield done


def _read_round(root: Path, number: int) -> Round | None:
    from safetensors.torch import load_file

    folder = round_folder(root, number)
    record = read_json(folder / RECORD)
    return None if record is None else Round(number, record, load_file(folder / GLOBAL))


def _write_round(
    root: Path,
    number: int,
    chosen: list[str],
    replies: list[ClientReply],
    payload: dict[str, Tensor],
    aggregation: Aggregation,
) -> Round:
    """Average the replies and write the round down; what was sent before is not needed any more."""
    here = [reply for reply in replies if not reply.failure]
    failures = {reply.client: reply.failure for reply in replies if reply.failure}
    if not here:
        raise RunError(
            f"round {number + 1}: no client replied ({'; '.join(failures.values())}); run the same command again"
        )
    result = aggregation.average_replies(here)
    means = ("loss", "density")
    record = {
        "chosen": chosen, "failed": failures,
        "bytes_down": count_bytes(payload) * len(chosen), "bytes_up": sum(count_bytes(reply.tensors) for reply in here),
        **{key: sum(reply.metrics[key] for reply in here) / len(here) for key in means},
        **{key: sum(reply.metrics[key] for reply in here) for key in ("tokens", "trained_tokens", "steps", "seconds")},
    }  # fmt: skip
    with fresh_directory(round_folder(root, number)) as side:
        write_tensors(side / GLOBAL, result)
        replace_json(side / RECORD, record)
    return Round(number, record, result)
