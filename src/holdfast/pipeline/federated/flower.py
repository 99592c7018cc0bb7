"""Flower as the exchange: our clients behind its ClientApp, our rounds inside its ServerApp. [flwr 1.42]

Flower brings the messages and the machines; what a client does and what is averaged stay ours, so that a round ends
with the same tensors as in this process. Its telemetry is off unless the environment says otherwise.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError, UserError
from holdfast.pipeline.federated.exchange import ClientReply, name_clients

if TYPE_CHECKING:
    from torch import Tensor

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
WAIT = 3600
"""Seconds that a round waits for its replies."""


def require_flower() -> None:
    """See that Flower is installed, and turn its telemetry off.

    Raises:
        UserError: If it is not.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if find_spec("flwr") is None:
        raise UserError(
            "--exchange flower needs flwr: pip install 'flwr[simulation]==1.42.*', best in its own environment"
        )


def build_client_app() -> Any:
    """The ClientApp: it trains the round that a message names, with the settings that come along."""
    from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def train_round(message: Any, context: Any) -> Any:
        import torch  # Flower makes tensors only where it was imported before
        from flwr.app import Message

        order = message.content["order"]
        payload = {name: torch.as_tensor(t) for name, t in message.content["payload"].to_torch_state_dict().items()}
        try:
            reply = _train_client(json.loads(order["settings"]), order["client"], order["round"], payload)
        except HoldfastError as error:
            reply = ClientReply(order["client"], failure=str(error))
        about = ConfigRecord({"client": reply.client, "failure": reply.failure})
        metrics = MetricRecord({"units": reply.units, **reply.metrics})
        content = RecordDict({"payload": ArrayRecord(reply.tensors), "metrics": metrics, "about": about})
        return Message(content=content, reply_to=message)

    return app


def _train_client(settings: dict[str, Any], name: str, number: int, payload: dict[str, Tensor]) -> ClientReply:
    from holdfast.pipeline.federated.aggregation import METHODS
    from holdfast.pipeline.federated.client import Client
    from holdfast.recipe.schema import Recipe

    recipe = Recipe.model_validate(settings["recipe"])
    client = Client(Path(settings["root"]), recipe, METHODS[settings["method"]](), settings["rate_decay"])
    return client.train_round(name, number, dict(payload))


@dataclass(slots=True)
class FlowerExchange:
    """Clients behind a Flower grid, one for each node: the first client is the node of the lowest id.

    Args:
        grid: Of the ServerApp.
        settings: Of the client, as a mapping that JSON can hold (`workers.client_settings`).
        clients: How many nodes there must be; the first round waits for them.
    """

    grid: Any
    settings: dict[str, Any]
    clients: int

    def run_round(self, number: int, chosen: Sequence[str], payload: dict[str, Tensor]) -> Iterator[ClientReply]:
        from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

        nodes = dict(zip(name_clients(self.clients), self._list_nodes(), strict=True))
        names = {node: name for name, node in nodes.items()}
        messages = []
        for name in chosen:
            order = ConfigRecord({"client": name, "round": number, "settings": json.dumps(self.settings)})
            content = RecordDict({"order": order, "payload": ArrayRecord(payload)})
            messages.append(Message(content, dst_node_id=nodes[name], message_type="train", group_id=str(number)))
        pending = set(chosen)
        for message in self.grid.send_and_receive(messages, timeout=WAIT):
            name = names[message.metadata.src_node_id]
            pending.discard(name)
            if message.has_error():
                yield ClientReply(name, failure=str(message.error.reason))
                continue
            metrics = dict(message.content["metrics"])
            units, tensors = metrics.pop("units"), message.content["payload"].to_torch_state_dict()
            yield ClientReply(name, dict(tensors), units, metrics, message.content["about"]["failure"])
        for name in sorted(pending):
            yield ClientReply(name, failure=f"no reply in {WAIT} s")

    def _list_nodes(self) -> list[int]:
        """The ids of all nodes, once there are as many as clients."""
        import time

        end = time.monotonic() + WAIT
        while len(nodes := sorted(self.grid.get_node_ids())) < self.clients:
            if time.monotonic() > end:
                raise UserError(f"{len(nodes)} of {self.clients} Flower nodes came within {WAIT} s; start the others")
            time.sleep(0.5)
        return nodes[: self.clients]

    def close(self) -> None:
        """The grid is Flower's."""


def run_simulation(work: Any, clients: int) -> None:
    """Run `work(grid)` in a ServerApp of Flower's simulation, which needs Ray, with a node for each client.

    Raises:
        Exception: What `work` raises.
    """
    require_flower()
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation as run_flower_simulation

    server, failures = ServerApp(), []

    @server.main()  # type: ignore[untyped-decorator]
    def run_rounds(grid: Any, context: Any) -> None:
        try:
            work(grid)
        except Exception as error:  # Flower would log it and go on
            failures.append(error)

    resources = {"client_resources": {"num_cpus": 1}, "init_args": {"include_dashboard": False}}
    run_flower_simulation(server, build_client_app(), num_supernodes=clients, backend_config=resources)
    if failures:
        raise failures[0]
