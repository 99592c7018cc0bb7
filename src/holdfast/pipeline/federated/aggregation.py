"""What travels between clients and server, and what each makes of it: FedAvg, SpaFL, and nothing at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from holdfast.models.row_thresholds import SUFFIX, find_weight_name

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.pipeline.federated.exchange import ClientReply

    Tensors = Mapping[str, Tensor]


class Aggregation(ABC):
    """One way to train together. Tensors are trained parameters by name, on the CPU."""

    is_personal = True
    """Whether every client keeps a model of its own; else there is one, the server's."""

    @abstractmethod
    def does_travel(self, name: str) -> bool:
        """Whether a trained parameter is sent to the server."""

    @abstractmethod
    def prepare_weights(self, own: Tensors, last: Tensors, payload: Tensors) -> dict[str, Tensor]:
        """What a client begins a round with; what is missing is as the base has it.

        Args:
            own: What it had after its last round, and nothing before its first.
            last: What the server had sent it then.
            payload: What the server sends it now.
        """

    @abstractmethod
    def average_replies(self, replies: Sequence[ClientReply]) -> dict[str, Tensor]:
        """What the server sends from now on, of the replies of a round in the order of clients."""


class FedAvg(Aggregation):
    """The mean of all trained weights, by how much each client's loss was taken over. [McMahan et al. 2017, 1602.05629]

    A client counts by the units its loss is divided by (trained tokens of `sft`, pairs of `dpo`): then one step of
    plain gradient descent on all rows of every client, averaged, is a step on all rows together.
    """

    is_personal = False

    def does_travel(self, name: str) -> bool:
        return True

    def prepare_weights(self, own: Tensors, last: Tensors, payload: Tensors) -> dict[str, Tensor]:
        """The server's."""
        return dict(payload)

    def average_replies(self, replies: Sequence[ClientReply]) -> dict[str, Tensor]:
        """Weighted by units, summed in double precision."""
        return average_tensors([r.tensors for r in replies], [r.units for r in replies])


class LocalOnly(Aggregation):
    """Each client alone: the baseline of those who keep their rows to themselves."""

    def does_travel(self, name: str) -> bool:
        return False

    def prepare_weights(self, own: Tensors, last: Tensors, payload: Tensors) -> dict[str, Tensor]:
        """Its own."""
        return dict(own)

    def average_replies(self, replies: Sequence[ClientReply]) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class ThresholdAveraging(Aggregation):
    """Only the thresholds of rows travel; weights stay with their client. [Kim et al. 2024, arXiv 2406.00431]

    The server takes the plain mean over the clients of the round. A client that begins a round takes the thresholds,
    and moves each row of its weights by how they moved since its last: w_i -= sign(sum_j w_ij) (new - old)_i / n, where
    row i has n weights. The authors' simulation moves all clients' weights in every round; here a client that was not
    drawn catches up at once when it is, so that it needs only the thresholds of that round.
    """

    def does_travel(self, name: str) -> bool:
        return name.endswith(SUFFIX)

    def prepare_weights(self, own: Tensors, last: Tensors, payload: Tensors) -> dict[str, Tensor]:
        """Its own, moved along with the thresholds."""
        import torch

        weights = dict(own)
        for name, new in payload.items():
            weights[name] = new
            if (key := find_weight_name(name)) in own:
                shift = new - last.get(name, torch.zeros_like(new))  # [out]; they start at 0
                rows = own[key]  # [out, in]
                weights[key] = rows - (rows.sum(1).sign() * shift / rows.shape[1])[:, None]
        return weights

    def average_replies(self, replies: Sequence[ClientReply]) -> dict[str, Tensor]:
        """Of the thresholds, each client counting alike."""
        return average_tensors([r.tensors for r in replies], [1.0] * len(replies))


METHODS: Mapping[str, type[Aggregation]] = {"fedavg": FedAvg, "spafl": ThresholdAveraging, "local": LocalOnly}


def average_tensors(parts: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of tensors of the same names, summed in double precision and in the order given."""
    total = sum(weights)
    return {
        name: sum(
            (part[name].double() * (weight / total) for part, weight in zip(parts[1:], weights[1:], strict=True)),
            start=parts[0][name].double() * (weights[0] / total),
        ).to(parts[0][name].dtype)
        for name in parts[0]
    }


def count_bytes(tensors: Tensors) -> int:
    """Bytes of the values, as they travel."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
