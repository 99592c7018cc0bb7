"""Embeddings of texts and prompts, by which they can be compared: the model's own, or a sentence encoder's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core.hub import fetch_model
from holdfast.data.rows import fingerprint_json
from holdfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.data.batching.batches import Batch
    from holdfast.data.chat.encoder import Chat
    from holdfast.models.loading import Model
    from holdfast.models.policy import Policy


ENCODER_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What is fetched of a sentence encoder."""


class SentenceEncoder:
    """A sentence-transformers model (extra `embed`).

    Args:
        name: A directory or a hub name.
        device: Where it computes.
        setting: The setting that names it, for errors.
    Attributes:
        fingerprint: SHA-256 of its weights.

    Raises:
        UserError: If the package is not installed, or there is no such model.
    """

    def __init__(self, name: str, device: torch.device, setting: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(f"{setting} needs a package; run pip install 'holdfast[embed]'") from error
        folder = find_encoder(name, setting)
        try:
            self._model = SentenceTransformer(folder, device=str(device), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{setting}: {name} cannot be loaded as a sentence-transformers model") from error

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings [texts, D] on the device."""
        return self._model.encode(
            list(texts), normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )


def find_encoder(name: str, setting: str) -> str:
    """The directory of a sentence encoder, fetched from the hub where it is none.

    Args:
        name: As of `SentenceEncoder`; without an owner it is one of sentence-transformers' own.
    """
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    try:
        return str(
            fetch_model(name if "/" in name else f"sentence-transformers/{name}", ENCODER_FILES, subfolders=True)
        )
    except UserError as error:
        raise UserError(f"{setting}: {error}") from error


def directions_by_model(policy: Policy, batches: Batches) -> Iterator[tuple[Batch, Tensor]]:
    """For every batch, in which direction [R, D] each row's prompt differs from the mean of all, in half precision."""
    import torch

    means = [prompt_means(policy, batch) for batch in batches()]
    everywhere = torch.cat(means).mean(0)  # [D]
    for batch, own in zip(batches(), means, strict=True):
        yield batch, directions_from_mean(own, everywhere)


def directions_by_encoder(name: str, policy: Policy, batches: Batches) -> Iterator[tuple[Batch, Tensor]]:
    """For every batch, the directions [R, D] of its prompts by a sentence-transformers model, in half precision.

    Raises:
        UserError: If the package is not installed, or there is no such model.
    """
    from holdfast.models.loading import load_tokenizer

    encoder = SentenceEncoder(name, policy.causal.device, "rpo.embedder")
    tokenizer = load_tokenizer(policy.causal.name_or_path or "")
    for batch in batches():
        texts = tokenizer.batch_decode(prompt_ids(batch), skip_special_tokens=True)
        yield batch, encoder.encode(texts).half()


def prompt_ends(batch: Batch) -> tuple[Tensor, Tensor]:
    """The flat position of each row's last prompt token, and the prompt's length, [R]; the first label follows it."""
    last = batch.label_positions.new_full((batch.n_sequences,), batch.position_ids.numel())
    last = last.scatter_reduce(0, batch.sequence, batch.label_positions, "amin")[batch.roles == 0]
    return last, batch.position_ids.flatten()[last] + 1


def prompt_ids(batch: Batch) -> list[list[int]]:
    """The tokens of each row's prompt."""
    ids = batch.input_ids.flatten()
    last, lengths = (tensor.tolist() for tensor in prompt_ends(batch))
    return [ids[end + 1 - length : end + 1].tolist() for end, length in zip(last, lengths, strict=True)]


def prompt_means(policy: Policy, batch: Batch) -> Tensor:
    """Final hidden states averaged over each row's prompt, [R, D], fp32: the tokens before chosen's first label."""
    import torch

    last, lengths = prompt_ends(batch)  # [R]
    row = torch.repeat_interleave(torch.arange(len(last), device=last.device), lengths)  # [prompt tokens]
    back = lengths.cumsum(0)[row] - 1 - torch.arange(len(row), device=last.device)
    states = policy.hidden_states_at(batch, last[row] - back).float()
    return states.new_zeros(len(last), states.shape[1]).index_add(0, row, states) / lengths[:, None]


def directions_from_mean(embeddings: Tensor, everywhere: Tensor) -> Tensor:
    """The directions [R, D], in half precision, in which embeddings differ from the mean; 0 where they hardly do."""
    apart = embeddings - everywhere
    return (apart / apart.norm(dim=-1, keepdim=True).clamp_min(1e-3 * everywhere.norm())).half()


class OwnEmbedder:
    """A language model as a `TextEmbedder`: its last hidden states, averaged over a text's tokens.

    Args:
        model: On its device; its tokenizer is that of the folder it came from.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights, by sums that any change of them moves: quicker to have than a hash of every byte."""
        sums = []
        for name, weight in self.model.named_parameters():
            values = weight.detach().double()
            sums.append([name, list(weight.shape), float(values.sum()), float(values.square().sum())])
        return fingerprint_json(sums)

    @cached_property
    def _parts(self) -> tuple[Policy, Chat]:
        from holdfast.data.chat.encoder import Chat
        from holdfast.models.loading import load_tokenizer
        from holdfast.models.policy import Policy

        policy = Policy(self.model)
        return policy, Chat(load_tokenizer(policy.causal.name_or_path or ""))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """fp32 [texts, D]; of a text beyond the context its beginning."""
        import numpy as np

        from holdfast.models.row_features import mean_states

        policy, chat = self._parts
        return np.stack(mean_states(policy, [chat.encode_text(text) for text in texts], chat.pad_id))
