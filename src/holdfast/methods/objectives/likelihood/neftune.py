"""NEFTune: supervised fine-tuning with noise on the input embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.labels import count_labels, label_weights

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy


class NEFTune(Objective):
    """SFT with uniform noise on the input embeddings while training. [Jain et al. 2023, 2310.05914]

    What it does: adds fresh noise to every embedding the first layer reads, so that exact wording cannot be memorised.
    The loss is that of `sft`; evaluation, sampling and the weights of a tied output embedding are never noised.

    When it helps: small instruction sets trained for several epochs; the paper's gains are in conversation quality
    (AlpacaEval 29.8 to 64.7 with Alpaca on a 7B model), with factual accuracy unchanged.

    When it fails: exact formats and short answers gain nothing; answers get longer, which flatters a judge.

    Columns: conversations with answers. Rows may carry `weight`.

    Formula, for a sequence of n tokens (prompt and answer, no padding) with embeddings E [n, D]:

        E' = E + u * alpha / sqrt(n D),   u ~ Uniform(-1, 1) [n, D]

    so the norm of E' - E is about alpha / sqrt(3), whatever n and D. n is each sequence's own length, as in the
    authors' experiments, also when packed; Hugging Face's flag uses the padded width instead, which makes the noise
    depend on the neighbours. The noise comes from torch's generator in the order of the sequences, so it is the same
    padded and packed.
    """

    paper: ClassVar[str] = "Jain et al. 2023, arXiv 2310.05914"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(5e-5, 1e-4, 3.0, 128, "Jain et al. 2023; adapters as sft")

    reduction: Literal["token", "sequence"] = Field(
        "token", description="token: every trained token counts alike; sequence: every answer counts alike."
    )
    alpha: float = Field(5.0, ge=0, description="Strength of the noise; the paper tries 5, 10 and 15.")

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"nll": count_labels(batch, self.reduction)}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        embeds = None
        if policy.model.training and self.alpha:
            embeds = policy.embed_tokens(batch.input_ids)  # [B, L, D]
            embeds = embeds + sample_embedding_noise(batch, embeds, self.alpha)
        return Losses({"nll": policy.weighted_nll(batch, label_weights(batch, self.reduction), embeds)})


def sample_embedding_noise(batch: Batch, embeds: Tensor, alpha: float) -> Tensor:
    """Noise [B, L, D] like `embeds`, without gradient; zero on padding."""
    import torch

    lines, width, size = embeds.shape
    lengths = batch.cu_seqlens.diff()  # [S]
    if lines == len(lengths):
        places = (torch.arange(width, device=embeds.device) < lengths[:, None]).flatten().nonzero()[:, 0]
    else:
        places = torch.arange(width, device=embeds.device)  # [tokens], in the order of the sequences
    scale = alpha / (torch.repeat_interleave(lengths, lengths) * size).sqrt()  # [tokens]
    uniform_noise = torch.rand(len(places), size, device=embeds.device).mul_(2).sub_(1).mul_(scale[:, None])
    flat = torch.zeros(lines * width, size, device=embeds.device).index_copy_(0, places, uniform_noise)
    return flat.view_as(embeds).to(embeds.dtype)
