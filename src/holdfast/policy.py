"""The model as the objectives see it: log-probabilities of labels without materialised logits, and the reference's."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from holdfast.errors import RunError, UserError

if TYPE_CHECKING:
    from holdfast.data.batches import Batch
    from holdfast.models import Model
    from holdfast.objectives.base import Objective

CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
"""fp32 logits held at a time: small enough for the caches of a CPU, large enough to fill a GPU."""


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class _LabelLogps(torch.autograd.Function):
    """log softmax(cap(scale * (h W' + b)))[label] in chunks of rows; three matmuls back, two when the head is frozen.

    Logits that fit in one chunk are kept for the backward pass; otherwise each chunk is computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, head: Head, rows: int
    ) -> Tensor:
        ctx.head, ctx.rows, ctx.dtype = head, rows, _compute_dtype(weight)
        w, b = weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)
        logps, sums, logits = [], [], None
        for h, y in zip(hidden.split(rows), labels.split(rows), strict=True):
            logits = head.shape(_linear(h, w, b))  # [rows, V]
            sums.append(logits.logsumexp(-1))
            logps.append(logits.gather(1, y[:, None])[:, 0] - sums[-1])
        kept = logits if len(sums) == 1 else None
        ctx.save_for_backward(hidden, weight, bias, labels, torch.cat(sums), kept)
        return torch.cat(logps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, sums, kept = ctx.saved_tensors
        need_h, need_w, need_b = ctx.needs_input_grad[:3]
        w, b = weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)
        # Sums over chunks are kept in fp32 (or better); the addition is in place.
        grad_h = torch.empty_like(hidden) if need_h else None
        grad_w = torch.zeros_like(weight, dtype=sums.dtype) if need_w else None
        grad_b = torch.zeros_like(bias, dtype=sums.dtype) if need_b else None
        for start in range(0, len(labels), ctx.rows):
            cut = slice(start, start + ctx.rows)
            logits = ctx.head.shape(_linear(hidden[cut], w, b)) if kept is None else kept
            d = torch.sub(logits, sums[cut, None]).exp_().mul_(-grad[cut, None])  # -p dL/dlogp, [rows, V]
            d.scatter_add_(1, labels[cut, None], grad[cut, None])
            d = ctx.head.shape_gradient(d, logits).to(ctx.dtype)
            if grad_h is not None:
                grad_h[cut] = d @ w
            if grad_w is not None:
                _add_matmul(grad_w, d.t(), hidden[cut].to(ctx.dtype))
            if grad_b is not None:
                grad_b += d.sum(0)
        return (
            grad_h,
            None if grad_w is None else grad_w.to(weight.dtype),
            None if grad_b is None else grad_b.to(bias.dtype),
            None,
            None,
            None,
        )


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """h W' + b in the weight's dtype, as fp32 (or better)."""
    out = F.linear(hidden.to(weight.dtype), weight, bias)
    return out.to(torch.promote_types(out.dtype, torch.float32))


def _add_matmul(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


class Head:
    """From final hidden states to logits: the output embedding, a scale and a soft cap.

    What a family does after its output embedding (Gemma caps, Cohere multiplies, Granite divides) is proposed from the
    configuration and proven by reproducing the model's own logits on four tokens. `exact` is False when nothing does:
    then the model's own forward pass makes the logits.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.scale, self.cap, self.exact = 1.0, 0.0, False
        ids = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
        with evaluating(model):
            wanted = model(input_ids=ids, use_cache=False).logits[0].float()
            raw = self.module(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)[0].float()
        tolerance = 1e-4 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 3e-2
        for scale, cap in self._candidates():
            self.scale, self.cap = scale, cap
            if torch.dist(self.shape(raw.clone()), wanted) <= tolerance * wanted.norm():
                self.exact = True
                break

    def _candidates(self) -> list[tuple[float, float]]:
        config = self.model.config.get_text_config()
        cap = getattr(config, "final_logit_softcapping", None) or 0.0
        scales = [getattr(config, name, None) for name in ("logit_scale", "logits_scaling", "lm_head_multiplier")]
        known = [float(s) for s in scales if s]
        return [(s, c) for c in dict.fromkeys((cap, 0.0)) for s in (*known, *(1 / s for s in known), 1.0)]

    @property
    def module(self) -> nn.Module:
        """The output embedding as it is now (sharding and adapters replace it)."""
        return self.model.get_output_embeddings()

    def shape(self, logits: Tensor) -> Tensor:
        """Scale and cap `logits`, in place where no gradient is recorded."""
        if self.scale != 1.0:
            logits = logits * self.scale if logits.requires_grad else logits.mul_(self.scale)
        if self.cap:
            capped = logits / self.cap if logits.requires_grad else logits.div_(self.cap)
            logits = capped.tanh() * self.cap if logits.requires_grad else capped.tanh_().mul_(self.cap)
        return logits

    def shape_gradient(self, d: Tensor, logits: Tensor) -> Tensor:
        """dL/d(raw) from dL/d(logits), in place: scale * (1 - (z / cap)^2)."""
        if self.cap:
            d.mul_(1 - (logits / self.cap).square_())
        return d.mul_(self.scale) if self.scale != 1.0 else d

    def logits(self, hidden: Tensor) -> Tensor:
        """[M, D] to [M, V], fp32, differentiable."""
        out = self.module(hidden)
        return self.shape(out.to(torch.promote_types(out.dtype, torch.float32)))

    def logps(self, hidden: Tensor, labels: Tensor, rows: int) -> Tensor:
        """Log-probabilities [N] of `labels` after `hidden` [N, D]."""
        module = self.module
        if type(module) is nn.Linear:
            return _LabelLogps.apply(hidden, module.weight, module.bias, labels, self, rows)
        # An adapter or a quantised layer: only its own forward pass knows what it computes.
        chunks = zip(hidden.split(rows), labels.split(rows), strict=True)
        return torch.cat([checkpoint(self._module_logps, h, y, use_reentrant=False) for h, y in chunks])

    def _module_logps(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return -F.cross_entropy(self.logits(hidden), labels, reduction="none")


class ReferenceCache:
    """Log-probabilities of the untouched model, by (row, role); in memory, and on disk when it has a path.

    They are computed once, before the first step (`precompute`), and found again by a resumed or repeated run.
    """

    def __init__(self, path: Path | None = None) -> None:
        """`path`: a safetensors file, read if it exists; `at` names it by what the numbers depend on."""
        self.path = path
        self.values: dict[tuple[int, int], Tensor] = {}
        if path is not None and path.exists():
            stored = load_file(path)
            pieces = stored["values"].split(stored["keys"][:, 2].tolist())
            self.values = {(row, role): v for (row, role, _), v in zip(stored["keys"].tolist(), pieces, strict=True)}

    @classmethod
    def at(cls, directory: Path, *fingerprints: str) -> ReferenceCache:
        """The cache in `directory` for this model, table and precision."""
        name = hashlib.sha256("|".join(fingerprints).encode()).hexdigest()[:24]
        return cls(directory / f"reference-{name}.safetensors")

    def get(self, batch: Batch) -> Tensor | None:
        """The label log-probabilities [N] of `batch`, or `None` when a sequence of it is not stored."""
        keys = _keys(batch)
        found = [self.values[key] for key in keys if key in self.values]
        if len(found) < len(keys):
            return None
        return torch.cat(found).to(batch.labels.device)

    def put(self, batch: Batch, logps: Tensor) -> None:
        """Store the label log-probabilities [N] of `batch`."""
        counts = torch.bincount(batch.sequence, minlength=batch.n_sequences).tolist()
        pieces = logps.detach().float().cpu().split(counts)
        self.values.update(zip(_keys(batch), (p.clone() for p in pieces), strict=True))

    def save(self) -> None:
        """Write to `path`, whole or not at all; nothing to do without one."""
        if self.path is None or not self.values:
            return
        keys = torch.tensor([(row, role, len(v)) for (row, role), v in self.values.items()])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        side = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        save_file({"keys": keys, "values": torch.cat(list(self.values.values()))}, side)
        os.replace(side, self.path)


def _keys(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.rows.tolist(), batch.roles.tolist(), strict=True))


class Policy:
    """A causal language model, plain or with a PEFT adapter, seen through the batches of `holdfast.data.batches`.

    Build it before the model is sharded or wrapped: it runs the model on a few tokens to learn how logits are made and
    whether packed rows stay apart.

    Args:
        model: On its device.
        chunk: Rows of logits held at a time; default by memory (`CHUNK_BYTES`).
        reference: Where `reference_logps` are kept; default in memory.
        base: Makes a context in which `model` computes what the untouched model computes (`Tuner.base`); `None` when
            the weights themselves move, and the reference must have been computed before.
        autocast: Compute in this dtype (`torch.bfloat16`) with the weights as they are.
    """

    def __init__(
        self,
        model: Model,
        *,
        chunk: int | None = None,
        reference: ReferenceCache | None = None,
        base: Callable[[], AbstractContextManager[None]] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
            raise UserError("adapters that add virtual tokens (prompt, prefix) cannot be trained or scored here yet")
        self.model = model
        # PEFT says Module; what it gives back is the transformers model it was built around.
        self.causal: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[assignment]
        self.config = self.causal.config
        self.reference = ReferenceCache() if reference is None else reference
        self.base = base
        self.autocast = autocast
        self.head = Head(self.causal)
        size = CHUNK_BYTES.get(self.causal.device.type, CHUNK_BYTES["cuda"])
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
        if batch.attention_mask is None and batch.n_sequences > len(batch.input_ids) and not self.packs:
            raise UserError("this model cannot keep packed rows apart; set train.layout: padded")
        inputs = {"input_ids": batch.input_ids} if embeds is None else {"inputs_embeds": embeds}
        return self._body(batch.position_ids, batch.attention_mask, **inputs).flatten(0, 1)

    def _own_logits(self, batch: Batch, where: Tensor, embeds: Tensor | None) -> Tensor:
        """Logits [M, V] from the model's own forward pass, for heads nobody described."""
        inputs = {"input_ids": batch.input_ids} if embeds is None else {"inputs_embeds": embeds}
        extra = self._placed(batch.position_ids, batch.attention_mask)
        with self._precision():
            logits = self.causal(**inputs, **extra, use_cache=False).logits
        return logits.flatten(0, 1)[where].to(torch.promote_types(logits.dtype, torch.float32))

    def token_logps(self, batch: Batch, embeds: Tensor | None = None) -> Tensor:
        """Log-probabilities [N] of the labels, fp32, differentiable; logits exist only a chunk at a time."""
        if not self.head.exact:
            logits = self._own_logits(batch, batch.where, embeds)
            return -F.cross_entropy(logits, batch.labels, reduction="none")
        hidden = self.hidden(batch, embeds)[batch.where]  # [N, D]
        with self._precision():
            return self.head.logps(hidden, batch.labels, self.rows)

    def logits(self, batch: Batch, where: Tensor, embeds: Tensor | None = None) -> Tensor:
        """Whole logits [M, V], fp32, at the flat positions `where` [M]. The caller keeps M small."""
        if not self.head.exact:
            return self._own_logits(batch, where, embeds)
        hidden = self.hidden(batch, embeds)[where]
        with self._precision():
            return self.head.logits(hidden)

    @torch.no_grad()
    def greedy(self, batch: Batch, where: Tensor, embeds: Tensor | None = None) -> Tensor:
        """The likeliest next token [M] after the flat positions `where` [M]; no gradient, mode left as it is."""
        if not self.head.exact:
            return self._own_logits(batch, where, embeds).argmax(-1)
        hidden = self.hidden(batch, embeds)[where]
        with self._precision():
            return torch.cat([self.head.logits(h).argmax(-1) for h in hidden.split(self.rows)])

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probabilities [N] of the labels under the untouched model: eval mode, no gradient, computed once.

        Raises:
            RunError: If they were not computed before training and the untouched model is gone.
        """
        found = self.reference.get(batch)
        if found is None:
            if self.base is None:
                raise RunError("reference log-probabilities are missing: run `precompute` before the weights move")
            with self.base(), evaluating(self.model):
                found = self.token_logps(batch)
            self.reference.put(batch, found)
        return found


def precompute(policy: Policy, batches: Iterable[Batch]) -> None:
    """Fill and save `policy.reference` for `batches`, before the weights move (or with the adapter off)."""
    for batch in batches:
        if policy.reference.get(batch) is None:
            with policy.base() if policy.base else contextlib.nullcontext(), evaluating(policy.model):
                policy.reference.put(batch, policy.token_logps(batch))
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
