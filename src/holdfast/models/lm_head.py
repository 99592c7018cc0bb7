"""From final hidden states to log-probabilities, with logits a chunk of rows at a time and gradients made early.

A row's gradient towards its hidden state is a number times one vector, whatever the loss, so with a frozen head that
vector is made while the logits are there: two products over the vocabulary in all. The head's own gradient needs the
numbers themselves; a loss that is a plain weighted sum knows them beforehand (`Head.nll_from_hidden`: three products),
any other has the logits computed again (`Head.logps_from_hidden`: four).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from holdfast.models.llama_family import outputs_agree
from holdfast.models.loading import eval_mode, is_hooked_or_patched, is_module_hooked_or_patched

if TYPE_CHECKING:
    from transformers import PreTrainedModel


CHUNK_BYTES = {"cpu": 64 << 20, "mps": 128 << 20}
"""fp32 logits held at a time: enough rows for the products over the vocabulary to be worth reading its weights."""
CHUNK_BYTES_OF_OTHERS = 256 << 20
"""On accelerators that do not say how much memory they have."""

MOST_ROWS, FEWEST_ROWS = 4096, 256
"""Of a chunk on an accelerator. Each one adds a gradient of the vocabulary's size to the sum: on an H100 2,048 to 4,096
rows were faster than 441, and more are not faster still."""

CHUNK_SHARE, LOGIT_BYTES = 0.1, 12
"""Of an accelerator's memory, what a chunk may take; and what it takes for each logit: that and its probability in
fp32, the derivative in 16 bits, and the logit in 16 bits of the chunk that comes next."""


def choose_chunk_rows(device: torch.device, vocabulary: int, total: int | None) -> int:
    """Rows of logits at a time. On an accelerator a power of two, by all of its memory and not by what is free now: the
    sums of a run that goes on, and of two models that are compared, have the same order.

    Args:
        total: Bytes of the device's memory, where it says them.
    """
    if device.type in CHUNK_BYTES or total is None:
        return max(1, CHUNK_BYTES.get(device.type, CHUNK_BYTES_OF_OTHERS) // (4 * vocabulary))
    rows = int(CHUNK_SHARE * total / (LOGIT_BYTES * vocabulary))
    return max(FEWEST_ROWS, min(MOST_ROWS, 1 << max(rows, 1).bit_length() - 1))


class _LabelLogps(torch.autograd.Function):
    """log softmax(shape(h W' + b))[label], rows independent of one another.

    What fits in one chunk is kept for the backward pass; otherwise each chunk is computed again, unless only the hidden
    states need a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, head: Head, rows: int
    ) -> Tensor:
        ctx.head, ctx.rows, ctx.dtype = head, rows, _compute_dtype(weight)
        need_h, need_w, need_b = ctx.needs_input_grad[:3]
        alone = need_h and not (need_w or need_b)
        early = _GradientSums(head, hidden, weight, bias, (True, False, False), ctx.dtype) if alone else None
        logps, only_chunk = [], None
        for chunk in _compute_chunks(head, hidden, weight, bias, labels, rows, ctx.dtype):
            logps.append(chunk.logps)
            if early is not None:
                early.add(chunk, None)
            elif len(labels) <= rows:
                only_chunk = chunk
            del chunk  # before the next one is made
        p, slope = (None, None) if only_chunk is None else (only_chunk.p, only_chunk.slope)
        ctx.save_for_backward(hidden, weight, bias, labels, p, slope, None if early is None else early.hidden)
        return torch.cat(logps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, p, slope, early = ctx.saved_tensors
        if early is not None:
            return ((early * grad[:, None]).to(hidden.dtype), None, None, None, None, None)
        totals = _GradientSums(ctx.head, hidden, weight, bias, ctx.needs_input_grad, ctx.dtype)
        again = _compute_chunks(ctx.head, hidden, weight, bias, labels, ctx.rows, ctx.dtype)
        for chunk in again if p is None else [_Chunk(slice(None), labels, grad, p, slope)]:
            totals.add(chunk, grad[chunk.cut])
            del chunk
        return (*totals.cast_gradients(), None, None, None)


class _WeightedNLL(torch.autograd.Function):
    """-sum_i c_i log softmax(shape(h_i W' + b))[label_i]; gradients made going forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        coefficients: Tensor,
        head: Head,
        rows: int,
    ) -> Tensor:
        dtype = _compute_dtype(weight)
        totals = _GradientSums(head, hidden, weight, bias, ctx.needs_input_grad, dtype)
        total = torch.zeros((), dtype=totals.wide, device=hidden.device)
        for chunk in _compute_chunks(head, hidden, weight, bias, labels, rows, dtype):
            total -= (chunk.logps * coefficients[chunk.cut]).sum()
            totals.add(chunk, -coefficients[chunk.cut])
            del chunk
        ctx.save_for_backward(*totals.cast_gradients())
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if g is None else g.mul_(grad.to(g.dtype)) for g in ctx.saved_tensors)
        return (*gradients, None, None, None, None)


@dataclass(slots=True)
class _Chunk:
    """Some rows.

    Args:
        cut: Which.
        labels: [rows].
        logps: Their log-probabilities [rows].
        p: All probabilities [rows, V], in fp32 or better; `_Totals.add` uses them up.
        slope: The derivative of the soft cap there, [rows, V]; None without one.
    """

    cut: slice
    labels: Tensor
    logps: Tensor
    p: Tensor
    slope: Tensor | None


def _compute_chunks(
    head: Head, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, rows: int, dtype: torch.dtype
) -> Iterator[_Chunk]:
    """The rows in turn, computed in `dtype`.

    On a CPU, where fresh memory is dear, a chunk's probabilities stand where the next one's will.
    """
    w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
    place = None
    if hidden.device.type == "cpu" and b is None and hidden.dtype == dtype == torch.float32:
        place = hidden.new_empty(min(rows, len(labels)), len(weight))
    for start in range(0, max(len(labels), 1), rows):
        cut = slice(start, start + rows)
        yield _compute_chunk(head, hidden, w, b, labels, cut, place)


def _compute_chunk(
    head: Head, hidden: Tensor, w: Tensor, b: Tensor | None, labels: Tensor, cut: slice, place: Tensor | None
) -> _Chunk:
    """Some rows. Their logits are gone at the end; where there is a `place` [rows, V], the probabilities take it."""
    h, y = hidden[cut], labels[cut, None]
    raw = _apply_linear(h, w, b) if place is None else torch.mm(h, w.t(), out=place[: len(h)])
    z = head.apply_scale_and_cap(raw)  # [rows, V]
    slope = head.cap_derivative(z)
    logps, p = _log_softmax_at(z, y, None if place is None else z)
    return _Chunk(cut, labels[cut], logps, p, slope)


def _log_softmax_at(z: Tensor, labels: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Log-probabilities [rows] of `labels` [rows, 1] under logits [rows, V], and all probabilities (in `out`).

    The probability of the likeliest token is exp(0) / sum, so its logarithm is minus that of the sum: one pass over the
    vocabulary gives both, and nothing overflows.
    """
    top, likeliest = z.max(-1, keepdim=True)
    of_label = z.gather(1, labels)
    p = torch.softmax(z, -1) if out is None else torch.softmax(z, -1, out=out)
    return (of_label - top + p.gather(1, likeliest).log_())[:, 0], p


class _GradientSums:
    """Gradients of hidden states, weight and bias, those that are needed, summed over chunks in fp32 (or better)."""

    def __init__(
        self,
        head: Head,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        needs: Sequence[bool],
        dtype: torch.dtype,
    ) -> None:
        self.scale, self.inputs, self.dtype = head.scale, (hidden, weight, bias), dtype
        self.wide = torch.promote_types(dtype, torch.float32)
        self.hidden = torch.empty_like(hidden) if needs[0] else None
        self.weight = torch.zeros_like(weight, dtype=self.wide) if needs[1] else None
        self.bias = torch.zeros_like(bias, dtype=self.wide) if needs[2] and bias is not None else None

    def add(self, chunk: _Chunk, grad: Tensor | None) -> None:
        """Take in a chunk where dL/dlogp is `grad` [rows], or 1."""
        rates = chunk.p.new_ones(len(chunk.p)) if grad is None else grad.to(self.wide)
        rates = rates[:, None] * -self.scale  # [rows, 1]
        of_label = chunk.labels[:, None]  # [rows, 1]
        # p - 1 at the label; not scatter_add_, which on CUDA takes atomics, or a slow way round them.
        d = chunk.p.scatter_(1, of_label, chunk.p.gather(1, of_label) - 1)
        d = (d if chunk.slope is None else d.mul_(chunk.slope)).to(self.dtype)
        hidden, weight, _ = self.inputs
        if self.hidden is not None:
            self.hidden[chunk.cut] = (d @ weight.to(self.dtype)) * rates
        if self.weight is not None:
            states = (hidden[chunk.cut] * rates).to(self.dtype)
            if self.dtype == self.wide:
                self.weight.addmm_(d.t(), states)
            else:
                self.weight += d.t() @ states
        if self.bias is not None:
            self.bias += d.t().to(self.wide) @ rates[:, 0]

    def cast_gradients(self) -> tuple[Tensor | None, ...]:
        """The gradients, in the dtypes of what they belong to."""
        sums = (self.hidden, self.weight, self.bias)
        return tuple(
            g if g is None or like is None else g.to(like.dtype) for g, like in zip(sums, self.inputs, strict=True)
        )


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _apply_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """h W' + b in the weight's dtype, as fp32 (or better)."""
    out = F.linear(hidden.to(weight.dtype), weight, bias)
    return out.to(torch.promote_types(out.dtype, torch.float32))


class Head:
    """From final hidden states to logits: the output embedding, a scale and a soft cap.

    What a family does after its output embedding (Gemma caps, Cohere multiplies, Granite divides) is proposed from the
    configuration and proven by reproducing the model's own logits on four tokens. `is_exact` is False when nothing
    does: then the model's own forward pass makes the logits.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.scale, self.cap, self._is_verified = 1.0, 0.0, False
        ids = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
        with eval_mode(model):
            own_logits = model(input_ids=ids, use_cache=False).logits[0].float()
            raw = self.module(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)[0].float()
        dtype = next(model.parameters()).dtype
        for scale, cap in self._propose_scales_and_caps():
            self.scale, self.cap = scale, cap
            if outputs_agree(self.apply_scale_and_cap(raw.clone()), own_logits, dtype):
                self._is_verified = True
                break

    def _propose_scales_and_caps(self) -> list[tuple[float, float]]:
        config = self.model.config.get_text_config()
        cap = getattr(config, "final_logit_softcapping", None) or 0.0
        scales = [getattr(config, name, None) for name in ("logit_scale", "logits_scaling", "lm_head_multiplier")]
        factors = [float(s) for s in scales if s]
        return [(s, c) for c in dict.fromkeys((cap, 0.0)) for s in (*factors, *(1 / s for s in factors), 1.0)]

    @property
    def is_exact(self) -> bool:
        """Whether logits are known from hidden states; not where somebody's own code runs around the whole model."""
        return self._is_verified and not is_module_hooked_or_patched(self.model)

    @property
    def _is_plain_linear(self) -> bool:
        """Whether the weights of the output embedding say all it does: it is no adapter, and nobody hooked into it."""
        return type(self.module) is nn.Linear and not is_hooked_or_patched(self.module)

    @property
    def module(self) -> nn.Module:
        """The output embedding as it is now (sharding and adapters replace it)."""
        return self.model.get_output_embeddings()

    def apply_scale_and_cap(self, logits: Tensor) -> Tensor:
        """Scale and cap `logits`, in place where no gradient is recorded."""
        if self.scale != 1.0:
            logits = logits * self.scale if logits.requires_grad else logits.mul_(self.scale)
        if self.cap:
            ratio = logits / self.cap if logits.requires_grad else logits.div_(self.cap)
            logits = ratio.tanh() * self.cap if logits.requires_grad else ratio.tanh_().mul_(self.cap)
        return logits

    def cap_derivative(self, z: Tensor) -> Tensor | None:
        """The derivative of the soft cap where it gave `z`: 1 - (z / cap)^2; None without a cap."""
        return 1 - (z / self.cap).square_() if self.cap else None

    def logits_from_hidden(self, hidden: Tensor) -> Tensor:
        """[M, D] to [M, V], fp32, differentiable."""
        out = self.module(hidden)
        return self.apply_scale_and_cap(out.to(torch.promote_types(out.dtype, torch.float32)))

    def logps_from_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Log-probabilities [N] of `labels` under whole logits [N, V], by the very operations of `logps`."""
        if self.is_exact and self._is_plain_linear:
            return _log_softmax_at(logits, labels[:, None])[0]
        return -F.cross_entropy(logits, labels, reduction="none")

    def logps_from_hidden(self, hidden: Tensor, labels: Tensor, rows: int, weight: Tensor | None = None) -> Tensor:
        """Log-probabilities [N] of `labels` after `hidden` [N, D]; `weight` [V, D] stands for the module's."""
        module = cast(nn.Linear, self.module)
        if self._is_plain_linear:
            weight = module.weight if weight is None else weight
            return _LabelLogps.apply(hidden, weight, module.bias, labels, self, rows)
        # An adapter or a quantised layer: only its own forward pass knows what it computes.
        chunks = zip(hidden.split(rows), labels.split(rows), strict=True)
        return torch.cat([checkpoint(self._module_logps, h, y, use_reentrant=False) for h, y in chunks])

    def nll_from_hidden(
        self, hidden: Tensor, labels: Tensor, coefficients: Tensor, rows: int, weight: Tensor | None = None
    ) -> Tensor:
        """The scalar -sum_i coefficients_i log p(labels_i), as from `logps`."""
        module = cast(nn.Linear, self.module)
        if self._is_plain_linear and torch.is_grad_enabled():
            weight = module.weight if weight is None else weight
            return _WeightedNLL.apply(hidden, weight, module.bias, labels, coefficients, self, rows)
        return -(self.logps_from_hidden(hidden, labels, rows) * coefficients).sum()

    def _module_logps(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return -F.cross_entropy(self.logits_from_hidden(hidden), labels, reduction="none")
