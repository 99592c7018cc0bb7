"""The model as the objectives see it: log-probabilities of labels without materialised logits, and the reference's."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from holdfast.core.files import fresh_file
from holdfast.errors import RunError, UserError
from holdfast.models.fused_llama import LlamaBody, fits
from holdfast.models.lm_head import Head
from holdfast.models.loading import adapted, evaluating
from holdfast.models.saving import give_rights

if TYPE_CHECKING:
    from holdfast.axes.objective import Objective
    from holdfast.data.batching.batches import Batch
    from holdfast.models.loading import Model

CHUNK_BYTES = {"cpu": 64 << 20, "mps": 128 << 20}
"""fp32 logits held at a time: enough rows for the products over the vocabulary to be worth reading its weights."""
CHUNK_BYTES_OF_CARDS = 256 << 20


class RowValues:
    """Numbers of each sequence, by (row, role): of each label, or any fixed number of them."""

    def __init__(self, stored: dict[str, Tensor] | None = None) -> None:
        """`stored`: what `tensors` gave."""
        self.values: dict[tuple[int, int], Tensor] = {}
        if stored is not None:
            pieces = stored["values"].split(stored["keys"][:, 2].tolist())
            self.values = {(row, role): v for (row, role, _), v in zip(stored["keys"].tolist(), pieces, strict=True)}

    def get(self, batch: Batch) -> Tensor | None:
        """The numbers of all sequences of `batch` one after another (those of its labels: [N]); `None` if some lack."""
        keys = _keys(batch)
        found = [self.values[key] for key in keys if key in self.values]
        if len(found) < len(keys):
            return None
        return torch.cat(found).to(batch.labels.device)

    def put(self, batch: Batch, values: Tensor, by: Literal["label", "sequence"] = "label") -> None:
        """Store `values` [N, ...] of the labels of `batch`, or [S, ...] of its sequences, flat."""
        counts = torch.bincount(batch.sequence, minlength=batch.n_sequences).tolist()
        pieces = values.detach().cpu().split(counts if by == "label" else 1)
        self.values.update(zip(_keys(batch), (p.flatten().clone() for p in pieces), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """All of it in two tensors, to be saved."""
        keys = torch.tensor([(row, role, len(v)) for (row, role), v in self.values.items()])
        return {"keys": keys, "values": torch.cat(list(self.values.values()))}


class ReferenceCache(RowValues):
    """Log-probabilities of the untouched model, by (row, role); in memory, and on disk when it has a path.

    They are computed once, before the first step (`precompute`), and found again by a resumed or repeated run.
    """

    def __init__(self, path: Path | None = None) -> None:
        """`path`: a safetensors file, read if it exists; `at` names it by what the numbers depend on."""
        super().__init__(_stored(path) if path is not None else None)
        self.path = path

    @classmethod
    def at(cls, directory: Path, *fingerprints: str) -> ReferenceCache:
        """The cache in `directory` for this model, table and precision."""
        return cls(directory / f"reference-{_name(fingerprints)}.safetensors")

    def save(self) -> None:
        """Write to `path`, whole or not at all; nothing to do without one."""
        if self.path is not None and self.values:
            _write(self.tensors(), self.path)


class Kept:
    """What an objective computed from the untouched model before training.

    Args:
        directory: Where it is kept; `None`: only in memory.
        fingerprints: Of everything it depends on.
    Attributes:
        tensors: By name.
        rows: By name, numbers of each sequence; `rows["x"]` makes an empty one.
    """

    def __init__(self, directory: Path | None = None, *fingerprints: str) -> None:
        self.path = directory / f"prepared-{_name(fingerprints)}.safetensors" if directory else None
        self.tensors: dict[str, Tensor] = {}
        self.rows: defaultdict[str, RowValues] = defaultdict(RowValues)
        stored = _stored(self.path) if self.path is not None else None
        self.found = stored is not None
        self._read(stored or {})

    def _read(self, stored: dict[str, Tensor]) -> None:
        for key, value in stored.items():
            sort, _, name = key.partition(".")
            if sort == "tensor":
                self.tensors[name] = value
            elif sort == "keys":
                self.rows[name] = RowValues({"keys": value, "values": stored[f"values.{name}"]})

    def save(self) -> None:
        """Write it, whole or not at all."""
        if self.path is None:
            return
        out = {f"tensor.{name}": value.contiguous().cpu() for name, value in self.tensors.items()}
        for name, rows in self.rows.items():
            out |= {f"{part}.{name}": value for part, value in rows.tensors().items()}
        _write(out, self.path)

    def to(self, device: torch.device) -> None:
        """Move the tensors; numbers of sequences follow the batches."""
        self.tensors = {name: value.to(device) for name, value in self.tensors.items()}


def _name(fingerprints: Iterable[str]) -> str:
    return hashlib.sha256("|".join(fingerprints).encode()).hexdigest()[:24]


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(path) as side:
        save_file(tensors, side, metadata={"sha256": _digest(tensors)})
    give_rights(path.parent)


def _stored(path: Path) -> dict[str, Tensor] | None:
    """What `_write` wrote; `None`, so that it is computed again, where there is nothing, or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            digest = (file.metadata() or {}).get("sha256")
    except (FileNotFoundError, SafetensorError):
        return None
    return tensors if digest == _digest(tensors) else None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _keys(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.rows.tolist(), batch.roles.tolist(), strict=True))


class Policy:
    """A causal language model, plain or with a PEFT adapter, seen through the batches of `data.batching.batches`.

    Build it before the model is sharded or wrapped: it runs the model on a few tokens to learn how logits are made and
    whether packed rows stay apart.

    Args:
        model: On its device.
        chunk: Rows of logits held at a time; default by memory (`CHUNK_BYTES`).
        reference: Where `reference_logps` are kept; default in memory.
        base: Makes a context in which `model` computes what the untouched model computes (`Tuner.base`); `None` when
            the weights themselves move, and the reference must have been computed before.
        autocast: Compute in this dtype (`torch.bfloat16`) with the weights as they are.
        recompute: Keep no activations inside the layers, whose own checkpointing must be on too.
    """

    def __init__(
        self,
        model: Model,
        *,
        chunk: int | None = None,
        reference: ReferenceCache | None = None,
        base: Callable[[], AbstractContextManager[None]] | None = None,
        autocast: torch.dtype | None = None,
        recompute: bool = False,
    ) -> None:
        if adapted(model) and model.active_peft_config.is_prompt_learning:
            raise UserError("adapters that add virtual tokens (prompt, prefix) cannot be trained or scored here yet")
        self.model = model
        # PEFT says Module; what it gives back is the transformers model it was built around.
        self.causal: PreTrainedModel = model.get_base_model() if adapted(model) else model  # type: ignore[assignment]
        self.config = self.causal.config
        self.reference = ReferenceCache() if reference is None else reference
        self.kept = Kept()
        self.base = base
        self.autocast, self.recompute = autocast, recompute
        self.head = Head(self.causal)
        size = CHUNK_BYTES.get(self.causal.device.type, CHUNK_BYTES_OF_CARDS)
        self.rows = chunk or max(1, size // (4 * self.config.get_text_config().vocab_size))
        self._positions = "position_ids" in inspect.signature(self.causal.base_model.forward).parameters
        self.packs: bool = self._isolates()

    def _isolates(self) -> bool:
        """Whether restarting positions keep the rows of one line apart: row 2 must not notice that row 1 changes."""
        if not self._positions:
            return False
        ids = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3]], device=self.causal.device)
        positions = torch.tensor([[0, 1, 0, 1]], device=self.causal.device)
        with evaluating(self.causal):
            one, two = (self._body(positions, input_ids=line[None])[0, 2:].float() for line in ids)
        return bool(torch.dist(one, two) <= 1e-4 * one.norm())

    def _body(self, positions: Tensor, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Final hidden states [B, L, D]; `mask` as in `Batch.attention_mask`."""
        extra = self._placed(positions, mask)
        with self._precision():
            return self.causal.base_model(**inputs, **extra, use_cache=False).last_hidden_state

    def _placed(self, positions: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """What tells the model where tokens stand and what they look at; the mask is added to the attention scores."""
        extra = {"position_ids": positions} if self._positions else {}
        if mask is not None:
            dtype = self.autocast or self.causal.dtype
            extra["attention_mask"] = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
        return extra

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        # Older torch reuses casts made without gradients in the pass with gradients, which loses them: no cache there.
        return torch.autocast(self.causal.device.type, self.autocast, cache_enabled=torch.is_grad_enabled())

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of token ids, as the model's first layer gets them (Gemma's scaling included)."""
        return self.causal.get_input_embeddings()(ids)

    def hidden(self, batch: Batch, embeds: Tensor | None = None) -> Tensor:
        """Final hidden states [B*L, D], after the last normalisation; `embeds` [B, L, D] replace the token ids."""
        self._refuse_mixing(batch)
        inputs = {"input_ids": batch.input_ids} if embeds is None else {"inputs_embeds": embeds}
        return self._body(batch.position_ids, batch.attention_mask, **inputs).flatten(0, 1)

    def _refuse_mixing(self, batch: Batch) -> None:
        """Packed rows would read one another in a model that restarting positions do not part."""
        if batch.attention_mask is None and batch.n_sequences > len(batch.input_ids) and not self.packs:
            raise UserError("this model cannot keep packed rows apart; set train.layout: padded")

    def _own_logits(self, batch: Batch, where: Tensor, embeds: Tensor | None) -> Tensor:
        """Logits [M, V] from the model's own forward pass, for heads nobody described."""
        self._refuse_mixing(batch)
        inputs = {"input_ids": batch.input_ids} if embeds is None else {"inputs_embeds": embeds}
        extra = self._placed(batch.position_ids, batch.attention_mask)
        with self._precision():
            logits = self.causal(**inputs, **extra, use_cache=False).logits
        return logits.flatten(0, 1)[where].to(torch.promote_types(logits.dtype, torch.float32))

    @property
    def compact(self) -> bool:
        """Whether padding costs this model nothing (but in attention), in any layout, and packed rows stay apart."""
        return fits(self.causal)

    def states(self, batch: Batch, where: Tensor, embeds: Tensor | None = None) -> Tensor:
        """Final hidden states [M, D] at the flat positions `where` [M]."""
        return self._states(batch, where, embeds)[0]

    def _states(self, batch: Batch, where: Tensor, embeds: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As `states`; the output embedding that the head shall use, if not the model's own."""
        if not self.compact:
            return self.hidden(batch, embeds)[where], None
        with self._precision():
            return LlamaBody(self.causal, self.recompute)(batch, where, embeds)

    def token_logps(self, batch: Batch, embeds: Tensor | None = None, states: Tensor | None = None) -> Tensor:
        """Log-probabilities [N] of the labels, fp32, differentiable; logits exist only a chunk at a time.

        Args:
            embeds: [B, L, D], instead of the token ids.
            states: What `states(batch, batch.where, embeds)` gave, where that is known.
        """
        if not self.head.exact:
            logits = self._own_logits(batch, batch.where, embeds)
            return -F.cross_entropy(logits, batch.labels, reduction="none")
        states, weight = self._states(batch, batch.where, embeds) if states is None else (states, None)
        with self._precision():
            return self.head.logps(states, batch.labels, self.rows, weight)

    def nll(self, batch: Batch, weights: Tensor, embeds: Tensor | None = None) -> Tensor:
        """-(weights * token_logps).sum(), fp32, differentiable in the model: quicker where the loss is just that.

        Args:
            weights: [N], a constant.
        """
        if not self.head.exact:
            return -(self.token_logps(batch, embeds) * weights).sum()
        states, weight = self._states(batch, batch.where, embeds)
        with self._precision():
            return self.head.nll(states, batch.labels, weights, self.rows, weight)

    def logits(self, batch: Batch, where: Tensor, embeds: Tensor | None = None) -> Tensor:
        """Whole logits [M, V], fp32, at the flat positions `where` [M]. The caller keeps M small."""
        if not self.head.exact:
            return self._own_logits(batch, where, embeds)
        states = self.states(batch, where, embeds)
        with self._precision():
            return self.head.logits(states)

    def over_vocabulary(
        self, batch: Batch, score: Callable[[Tensor, slice], Tensor], embeds: Tensor | None = None
    ) -> Tensor:
        """What `score` makes of whole distributions, [N] or [N, ...], differentiable; they exist a chunk at a time.

        Args:
            score: From the logits [m, V], fp32, of some labels and which they are, to [m] or [m, ...]. Called again in
                the backward pass.
        """
        if not self.head.exact:
            return score(self._own_logits(batch, batch.where, embeds), slice(0, len(batch.where)))
        states = self.states(batch, batch.where, embeds)

        def some(hidden: Tensor, part: slice) -> Tensor:
            return score(self.head.logits(hidden), part)

        with self._precision():
            parts = [slice(i, min(i + self.rows, len(states))) for i in range(0, max(len(states), 1), self.rows)]
            return torch.cat(
                [checkpoint(some, states[part], part, use_reentrant=False, preserve_rng_state=False) for part in parts]
            )

    @torch.no_grad()
    def greedy(self, batch: Batch, where: Tensor, embeds: Tensor | None = None) -> Tensor:
        """The likeliest next token [M] after the flat positions `where` [M]; no gradient, mode left as it is."""
        if not self.head.exact:
            return self._own_logits(batch, where, embeds).argmax(-1)
        states = self.states(batch, where, embeds)
        with self._precision():
            return torch.cat([self.head.logits(h).argmax(-1) for h in states.split(self.rows)])

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probabilities [N] of the labels under the untouched model: eval mode, no gradient, computed once.

        Raises:
            RunError: If they were not computed before training and the untouched model is gone.
        """
        found = self.reference.get(batch)
        if found is None:
            if self.base is None:
                raise RunError("reference log-probabilities are missing: run `precompute` before the weights move")
            found = self.remember(batch)
        return found

    def remember(self, batch: Batch) -> Tensor:
        """Compute and store `reference_logps` [N]: with the adapter off, or before the weights move."""
        with self.untouched(), evaluating(self.model):
            found = self.token_logps(batch)
        self.reference.put(batch, found)
        return found

    def untouched(self) -> AbstractContextManager[None]:
        """Where the model is the base: the adapter off, if there is one; else only before the weights move."""
        return self.base() if self.base else contextlib.nullcontext()


def precompute(policy: Policy, batches: Iterable[Batch]) -> None:
    """Fill and save `policy.reference` for `batches`, before the weights move (or with the adapter off)."""
    for batch in batches:
        if policy.reference.get(batch) is None:
            policy.remember(batch)
    policy.reference.save()


class Scorer(nn.Module):
    """An objective on a policy as a module: what DDP, FSDP2 and DeepSpeed wrap.

    Everything an objective computes (several forward passes, embeddings, the head's weight) then happens inside one
    `forward` of the wrapper, so that gradient hooks fire once and sharded weights are gathered.

        scorer = accelerator.prepare(Scorer(policy, objective))
        sums, metrics = scorer(batch)

    The policy keeps seeing the same model: FSDP2 shards it in place, DDP leaves it alone. Parameters that an objective
    does not reach (IFT never reaches the input embeddings of an untied model) need `find_unused_parameters=True`.
    """

    def __init__(self, policy: Policy, objective: Objective) -> None:
        super().__init__()
        self.model = policy.model
        self.policy = policy
        self.objective = objective

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        losses = self.objective.losses(self.policy, batch)
        return losses.sums, losses.metrics
