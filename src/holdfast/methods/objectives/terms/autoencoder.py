"""A small sparse autoencoder of hidden states: few of many features stand for each token.

Top-k activations, as in Gao et al. 2024, arXiv 2406.04093: a state is encoded by its `active` strongest features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.models.policy import Policy

TOKENS = 1024
"""States in a step of its training."""
SAMPLES = 65536
"""States that it is trained on at most."""
RATE = 1e-3
"""Learning rate of Adam; over the last fifth of the steps it falls to nothing."""


def encode_states(states: Tensor, coder: Mapping[str, Tensor], active: int) -> tuple[Tensor, Tensor]:
    """The strengths of the active features of `states` [N, D], and which they are, [N, active] each; differentiable."""
    encoder = coder["encoder"]  # [D, F]
    strengths = (states.to(encoder.dtype) @ encoder + coder["bias"]).relu()  # [N, F]
    strongest = strengths.topk(min(active, encoder.shape[1]), dim=1)
    return strongest.values, strongest.indices


def sample_states(policy: Policy, batches: Batches, generator: torch.Generator) -> Tensor:
    """Final hidden states [n, D] of about `SAMPLES` answer tokens, or all if there are fewer; on the CPU."""
    import torch

    share = SAMPLES / max(1, sum(len(batch.labels) for batch in batches()))
    states = []
    for batch in batches():
        sample_mask = torch.rand(len(batch.labels), generator=generator) < share
        if sample_mask.any():
            states.append(
                policy.hidden_states_at(batch, batch.label_positions[sample_mask.to(batch.label_positions.device)])
                .float()
                .cpu()
            )
    return torch.cat(states)


def train_autoencoder(
    states: Tensor,
    *,
    wider: int,
    active: int,
    steps: int,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Train an autoencoder with F = wider * D features on `states` [n, D].

    Returns:
        What `encode_states` reads: `encoder` [D, F] and `bias` [F]; and `explained`, the share of the states' variance
        that the active features account for.
    """
    import torch

    centre = states.mean(0)
    scale = (states - centre).square().mean().sqrt().clamp_min(1e-6)
    directions = torch.randn(wider * states.shape[1], states.shape[1], generator=generator)
    decoder = torch.nn.functional.normalize(directions, dim=1).to(device)  # [F, D]
    coder = {"encoder": decoder.T.clone(), "bias": decoder.new_zeros(len(decoder)), "decoder": decoder}
    rule = torch.optim.Adam([tensor.requires_grad_() for tensor in coder.values()], lr=RATE)

    def reconstruction_loss() -> Tensor:
        some = torch.randint(len(states), (TOKENS,), generator=generator)
        x = ((states[some] - centre) / scale).to(device)  # variance 1
        return (reconstruct_states(x, coder, active) - x).square().mean()

    with torch.enable_grad():
        for step in range(steps):
            rule.param_groups[0]["lr"] = RATE * min(1.0, 5 * (1 - step / steps))
            rule.zero_grad()
            reconstruction_loss().backward()
            rule.step()
            # Strengths are comparable only if every feature stands for a step of the same length.
            decoder.data = torch.nn.functional.normalize(decoder.data, dim=1)
    with torch.no_grad():
        explained_share = 1 - torch.stack([reconstruction_loss() for _ in range(8)]).mean()
        encoder = coder["encoder"] / scale.to(device)
        return {"encoder": encoder, "bias": coder["bias"] - centre.to(device) @ encoder, "explained": explained_share}


def reconstruct_states(x: Tensor, coder: Mapping[str, Tensor], active: int) -> Tensor:
    """What `x` [n, D] is after encoding and decoding."""
    values, places = encode_states(x, coder, active)
    strengths = values.new_zeros(len(x), len(coder["decoder"])).scatter(1, places, values)  # [n, F]
    return strengths @ coder["decoder"]
