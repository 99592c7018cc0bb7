"""The model as the objectives see it: log-probabilities of labels without materialised logits, and the reference's."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from holdfast.errors import UserError
from holdfast.models.attention_choice import choose_attention
from holdfast.models.compiled_layers import CompiledLayers, pause_compiled, run_forward
from holdfast.models.eyes import PictureInputs
from holdfast.models.fused_llama import LlamaBody
from holdfast.models.llama_family import outputs_agree, supports_model
from holdfast.models.lm_head import Head, choose_chunk_rows
from holdfast.models.loading import eval_mode, has_adapter
from holdfast.models.placement import memory_bytes
from holdfast.models.stored_values import PrecomputedStore, ReferenceCache
from holdfast.models.varlen_attention import Kernel, LineBounds, omit_masks
from holdfast.models.virtual_tokens import stands_in_cache, virtual_tokens_of

if TYPE_CHECKING:
    from holdfast.axes.objective import Objective
    from holdfast.data.batching.batches import Batch, Layout
    from holdfast.models.loading import Model
    from holdfast.models.recomputation import Recomputation


def mask_to_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to the attention scores: 0 where it is true, else the least number there is."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


class Policy:
    """A causal language model, plain or with a PEFT adapter, seen through the batches of `data.batching.batches`.

    Build it before the model is sharded or wrapped: it runs the model on a few tokens to learn how logits are made,
    whether packed rows stay apart, and whether their attention can go by their lengths.

    Args:
        model: On its device.
        chunk: Rows of logits held at a time; default by the device (`choose_chunk_rows`).
        reference: Where `reference_logps` are kept; default in memory.
        base: Makes a context in which `model` computes what the untouched model computes (`Tuner.base_context`);
            `None` when the weights themselves move, and the reference must have been computed before.
        autocast: Compute in this dtype (`torch.bfloat16`) with the weights as they are.
        recomputation: Which activations inside the layers are computed again; their own checkpointing must be on too.
        varlen_kernel: For attention by lengths; default torch's, where that runs.
    """

    @pause_compiled()  # an earlier policy of this model may have its layers compiled, which a trial is too short for
    def __init__(
        self,
        model: Model,
        *,
        chunk: int | None = None,
        reference: ReferenceCache | None = None,
        base: Callable[[], AbstractContextManager[None]] | None = None,
        autocast: torch.dtype | None = None,
        recomputation: Recomputation = "off",
        varlen_kernel: Kernel | None = None,
    ) -> None:
        self.model, self.virtual = model, virtual_tokens_of(model)
        self.prefix_in_cache = stands_in_cache(model)
        if self.prefix_in_cache and recomputation != "off":
            raise UserError("layers that are computed again find no keys of a prefix; set recomputation off")
        # PEFT says Module; what it gives back is the transformers model it was built around.
        self.causal: PreTrainedModel = model.get_base_model() if has_adapter(model) else model  # type: ignore[assignment]
        self.config = self.causal.config
        self.reference = ReferenceCache() if reference is None else reference
        self.store = PrecomputedStore()
        self.base = base
        self.autocast, self.recomputation = autocast, recomputation
        self.value_head: nn.Linear | None = None
        self.compiled_layers: CompiledLayers | None = None
        """The layers, where they shall be compiled: then they are called themselves, and not read by `LlamaBody`."""
        self.head = Head(self.causal)
        device, vocabulary = self.causal.device, self.config.get_text_config().vocab_size
        self.chunk_rows = chunk or choose_chunk_rows(device, vocabulary, memory_bytes(device))
        self.eyes = PictureInputs(self.causal)
        self._positions = "position_ids" in inspect.signature(self.causal.base_model.forward).parameters
        body, embedding = self.causal.base_model.parameters(), self.causal.get_input_embeddings().parameters()
        self.body_weights = sum(p.numel() for p in body) - sum(p.numel() for p in embedding)
        # After the head's trial: what is proven here changes how packed lines are read, and theirs alone.
        self.prove_attention(varlen_kernel)
        self._body_agrees = LlamaBody(self.causal).agrees_with_model() if supports_model(self.causal) else None

    def prove_attention(self, kernel: Kernel | None = None) -> None:
        """Find out where the model is now what its attention can go by, and whether rows of one line stay apart.

        Args:
            kernel: For attention by lengths; default torch's, where that runs.
        """
        dtype = self.autocast or self.causal.dtype
        self.attention = choose_attention(self.causal, self._autocast_context, dtype, kernel)
        self.isolates_packed_rows: bool = self._can_isolate_rows()

    def _can_isolate_rows(self) -> bool:
        """Whether restarting positions keep the rows of one line apart: row 2 must not notice that row 1 changes."""
        if self.reads_lines_by_length:  # proven with that
            return True
        if not self._positions or self.virtual:  # virtual tokens stand at the beginning of a line, not of each row
            return False
        ids = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3]], device=self.causal.device)
        positions = torch.tensor([[0, 1, 0, 1]], device=self.causal.device)
        with eval_mode(self.causal):
            one, two = (self._run_body(positions, input_ids=line[None])[0, 2:].float() for line in ids)
        return outputs_agree(two, one, torch.float32)  # the same operations, whatever their precision

    @property
    def reads_lines_by_length(self) -> bool:
        """Whether packed lines are computed by the lengths of their sequences, without a mask and without padding."""
        return self.attention.is_varlen and not self.virtual

    @property
    def batch_layout(self) -> Layout:
        """The layout that costs least where nothing is trained: packed lines by length, else padded ones."""
        return "packed" if self.reads_lines_by_length else "padded"

    def _bounds_of(self, batch: Batch) -> LineBounds | None:
        """The bounds of a packed line; `None` where the layout needs none, or the model cannot use them.

        A line of one sequence is left to SDPA, whose causal kernel is faster there: 31 against 27 thousand tokens/s
        with one row of 8,192 tokens on an H100, uncompiled.
        """
        is_packed = batch.attention_mask is None and batch.n_sequences > len(batch.input_ids)
        return LineBounds.from_batch(batch) if is_packed and self.reads_lines_by_length else None

    def _run_body(
        self, positions: Tensor, mask: Tensor | None = None, bounds: LineBounds | None = None, **inputs: Tensor
    ) -> Tensor:
        """Final hidden states [B, L, D]; `mask` as in `Batch.attention_mask`."""
        inputs, positions, mask = self._prepend_virtual_tokens(inputs, positions, mask)
        with self._autocast_context(), self._line_inputs(positions, mask, bounds) as extra:
            body = partial(self.causal.base_model, **inputs, **extra, use_cache=False)
            return run_forward(self.compiled_layers, body).last_hidden_state[:, self._embedding_count() :]

    def _prepend_virtual_tokens(
        self, inputs: dict[str, Tensor], positions: Tensor, mask: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """What the model reads, [B, V + L], where V virtual tokens stand before it; every token looks at all of them.

        Args:
            mask: [B or 1, 1, L, L], as in `Batch.attention_mask`.
        """
        count = self.virtual
        if not count:
            return inputs, positions, mask
        if self.prefix_in_cache:
            return self._put_prefix_in_cache(inputs, positions, mask)
        embeds = inputs["inputs_embeds"] if "inputs_embeds" in inputs else self.embed_tokens(inputs["input_ids"])
        peft: Any = self.model
        prompt = peft.get_prompt(len(embeds)).to(embeds.dtype)  # [B, V, D]
        first = torch.arange(count, device=positions.device).expand(len(positions), -1)
        if mask is not None:
            mask = F.pad(mask, (count, 0, count, 0), value=True)
            mask[..., :count, :] = torch.ones_like(mask[..., :count, :]).tril()
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        together = rest | {"inputs_embeds": torch.cat([prompt, embeds], 1)}
        return together, torch.cat([first, positions + count], 1), mask

    def _put_prefix_in_cache(
        self, inputs: dict[str, Any], positions: Tensor, mask: Tensor | None
    ) -> tuple[dict[str, Any], Tensor, Tensor | None]:
        """The same with keys and values of every layer before it; a cache is made anew, as each pass adds to it."""
        peft: Any = self.model
        cache = peft.get_prompt(len(inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]))
        if mask is not None:
            mask = F.pad(mask, (self.virtual, 0), value=True)
        return inputs | {"past_key_values": cache}, positions + self.virtual, mask

    def _embedding_count(self) -> int:
        """Outputs that stand before those of the tokens."""
        return 0 if self.prefix_in_cache else self.virtual

    @contextlib.contextmanager
    def _line_inputs(
        self, positions: Tensor, mask: Tensor | None, bounds: LineBounds | None
    ) -> Iterator[dict[str, Any]]:
        """What tells the model where tokens stand and what they look at; the mask is added to the attention scores."""
        extra: dict[str, Any] = {"position_ids": positions} if self._positions else {}
        if mask is not None:
            extra["attention_mask"] = mask_to_bias(mask, self.autocast or self.causal.dtype)
        if bounds is None:
            yield extra
        else:
            with omit_masks():
                yield extra | bounds.model_inputs()

    def _autocast_context(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        # Older torch reuses casts made without gradients in the pass with gradients, which loses them: no cache there.
        return torch.autocast(self.causal.device.type, self.autocast, cache_enabled=torch.is_grad_enabled())

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of token ids, as the model's first layer gets them (Gemma's scaling included)."""
        return self.causal.get_input_embeddings()(ids)

    def hidden_states(self, batch: Batch, embeds: Tensor | None = None) -> Tensor:
        """Final hidden states [B*L, D], after the last normalisation; `embeds` [B, L, D] replace the token ids."""
        self._refuse_mixing(batch)
        states = self._run_body(
            self._positions_of(batch), batch.attention_mask, self._bounds_of(batch), **self._model_inputs(batch, embeds)
        )
        return states.flatten(0, 1)

    def _model_inputs(self, batch: Batch, embeds: Tensor | None) -> dict[str, Tensor]:
        """What the model reads: token ids or their embeddings [B, L, D], and what stands beside them."""
        self.eyes.refuse_lost(batch.input_ids, batch.inputs)
        if not (batch.input_counts and self.eyes.has_eyes):
            return ({"input_ids": batch.input_ids} if embeds is None else {"inputs_embeds": embeds}) | batch.inputs
        if embeds is None and not self.virtual:
            marks = self.eyes.mark_pictures(batch.input_ids)
            return {"input_ids": batch.input_ids} | marks | self.eyes.arrange_inputs(batch.inputs)
        embeds = self.embed_tokens(batch.input_ids) if embeds is None else embeds
        return {"inputs_embeds": self.eyes.embed_pictures(embeds, batch.input_ids, batch.inputs)}

    def _positions_of(self, batch: Batch) -> Tensor:
        """Positions [B, L], or [3, B, L] of pictures that have height and width."""
        grid = self.eyes.grid_positions(batch.input_ids, batch.inputs)
        return batch.position_ids if grid is None else grid

    def _refuse_mixing(self, batch: Batch) -> None:
        """Packed rows would read one another in a model that restarting positions do not part."""
        if batch.attention_mask is None and batch.n_sequences > len(batch.input_ids) and not self.isolates_packed_rows:
            raise UserError("this model cannot keep packed rows apart; set train.layout: padded")
        if batch.key_index is not None and not self.reads_lines_by_length:
            raise UserError("this model cannot read pairs that share their prompt in a packed line")

    def _own_logits(self, batch: Batch, where: Tensor, embeds: Tensor | None) -> Tensor:
        """Logits [M, V] from the model's own forward pass, for heads nobody described."""
        self._refuse_mixing(batch)
        inputs, positions, mask = self._prepend_virtual_tokens(
            self._model_inputs(batch, embeds), self._positions_of(batch), batch.attention_mask
        )
        with self._autocast_context(), self._line_inputs(positions, mask, self._bounds_of(batch)) as extra:
            whole = partial(self.causal, **inputs, **extra, use_cache=False)
            logits = run_forward(self.compiled_layers, whole).logits[:, self._embedding_count() :]
        return logits.flatten(0, 1)[where].to(torch.promote_types(logits.dtype, torch.float32))

    @property
    def uses_fused_body(self) -> bool:
        """Whether padding costs this model nothing (but in attention), in any layout, and packed rows stay apart."""
        if self.compiled_layers is not None or self.virtual:
            return False
        if not supports_model(self.causal):  # asked anew: hooks come and go
            return False
        if self._body_agrees is None:
            self._body_agrees = LlamaBody(self.causal).agrees_with_model()
        return self._body_agrees

    def hidden_states_at(self, batch: Batch, where: Tensor, embeds: Tensor | None = None) -> Tensor:
        """Final hidden states [M, D] at the flat positions `where` [M]."""
        return self._states_and_weight(batch, where, embeds)[0]

    def _states_and_weight(self, batch: Batch, where: Tensor, embeds: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As `states`; the output embedding that the head shall use, if not the model's own."""
        # The fused body reads ids or embeddings and nothing else, from lines with whole sequences or with a mask.
        if batch.inputs or batch.key_index is not None or not self.uses_fused_body:
            return self.hidden_states(batch, embeds)[where], None
        with self._autocast_context():
            return LlamaBody(self.causal, self.recomputation)(batch, where, embeds)

    def token_logps(self, batch: Batch, embeds: Tensor | None = None, states: Tensor | None = None) -> Tensor:
        """Log-probabilities [N] of the labels, fp32, differentiable; logits exist only a chunk at a time.

        Args:
            embeds: [B, L, D], instead of the token ids.
            states: What `states(batch, batch.label_positions, embeds)` gave, where that is known.
        """
        if not self.head.is_exact:
            logits = self._own_logits(batch, batch.label_positions, embeds)
            return -F.cross_entropy(logits, batch.labels, reduction="none")
        states, weight = (
            self._states_and_weight(batch, batch.label_positions, embeds) if states is None else (states, None)
        )
        with self._autocast_context():
            return self.head.logps_from_hidden(states, batch.labels, self.chunk_rows, weight)

    def weighted_nll(self, batch: Batch, weights: Tensor, embeds: Tensor | None = None) -> Tensor:
        """-(weights * token_logps).sum(), fp32, differentiable in the model: quicker where the loss is just that.

        Args:
            weights: [N], a constant.
        """
        if not self.head.is_exact:
            return -(self.token_logps(batch, embeds) * weights).sum()
        states, weight = self._states_and_weight(batch, batch.label_positions, embeds)
        with self._autocast_context():
            return self.head.nll_from_hidden(states, batch.labels, weights, self.chunk_rows, weight)

    def predict_values(self, batch: Batch) -> Tensor:
        """The value head's estimates [N], fp32, one for each label, of the state that predicts it; differentiable."""
        return self.predict_values_at(batch, batch.label_positions)

    def predict_values_at(self, batch: Batch, where: Tensor) -> Tensor:
        """Likewise [n] of the states at the flat positions `where` [n] of the lines.

        Raises:
            UserError: If there is no value head.
        """
        if self.value_head is None:
            raise UserError(
                "this policy has no value head: an objective that calls `policy.predict_values` says so by "
                "`needs_values: ClassVar[bool] = True`"
            )
        return self.value_head(self.hidden_states_at(batch, where).float())[:, 0]

    def logits_at(self, batch: Batch, where: Tensor, embeds: Tensor | None = None) -> Tensor:
        """Whole logits [M, V], fp32, at the flat positions `where` [M]. The caller keeps M small."""
        if not self.head.is_exact:
            return self._own_logits(batch, where, embeds)
        states = self.hidden_states_at(batch, where, embeds)
        with self._autocast_context():
            return self.head.logits_from_hidden(states)

    def logits_by_part(self, batch: Batch, where: Tensor) -> Callable[[slice], Tensor]:
        """From a part of the flat positions `where` [M] to its whole logits [m, V], fp32; states are computed once."""
        if not self.head.is_exact:
            logits = self._own_logits(batch, where, None)
            return lambda part: logits[part]
        states = self.hidden_states_at(batch, where)

        def logits_of_part(part: slice) -> Tensor:
            with self._autocast_context():
                return self.head.logits_from_hidden(states[part])

        return logits_of_part

    def over_vocabulary(
        self, batch: Batch, score: Callable[[Tensor, slice], Tensor], embeds: Tensor | None = None
    ) -> Tensor:
        """What `score` makes of whole distributions, [N] or [N, ...], differentiable; they exist a chunk at a time.

        Args:
            score: From the logits [m, V], fp32, of some labels and which they are, to [m] or [m, ...]. Called again in
                the backward pass.
        """
        if not self.head.is_exact:
            return score(self._own_logits(batch, batch.label_positions, embeds), slice(0, len(batch.label_positions)))
        states = self.hidden_states_at(batch, batch.label_positions, embeds)

        def score_part(hidden: Tensor, part: slice) -> Tensor:
            return score(self.head.logits_from_hidden(hidden), part)

        with self._autocast_context():
            parts = [
                slice(i, min(i + self.chunk_rows, len(states))) for i in range(0, max(len(states), 1), self.chunk_rows)
            ]
            return torch.cat(
                [
                    checkpoint(score_part, states[part], part, use_reentrant=False, preserve_rng_state=False)
                    for part in parts
                ]
            )

    @torch.no_grad()
    def greedy_tokens(self, batch: Batch, where: Tensor, embeds: Tensor | None = None) -> Tensor:
        """The likeliest next token [M] after the flat positions `where` [M]; no gradient, mode left as it is."""
        if not self.head.is_exact:
            return self._own_logits(batch, where, embeds).argmax(-1)
        states = self.hidden_states_at(batch, where, embeds)
        with self._autocast_context():
            return torch.cat([self.head.logits_from_hidden(h).argmax(-1) for h in states.split(self.chunk_rows)])

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probabilities [N] of the labels under the untouched model: eval mode, no gradient, computed once.

        Raises:
            UserError: If they were not computed before training and the untouched model is gone.
        """
        logps = self.reference.find_values(batch)
        if logps is None:
            if self.base is None:
                raise UserError(
                    "the base model's log-probabilities of these rows were not computed before the weights moved: an "
                    "objective that calls `policy.reference_logps` says so by `needs_reference: ClassVar[bool] = True`"
                )
            logps = self.compute_reference(batch)
        return logps

    def compute_reference(self, batch: Batch) -> Tensor:
        """Compute and store `reference_logps` [N]: with the adapter off, or before the weights move."""
        with self.use_base_model(), eval_mode(self.model):
            logps = self.token_logps(batch)
        self.reference.set_values(batch, logps)
        return logps

    @contextlib.contextmanager
    def use_base_model(self) -> Iterator[None]:
        """Where the model is the base: the adapter off, if there is one; else only before the weights move."""
        virtual, self.virtual = self.virtual, 0
        try:
            with self.base() if self.base else contextlib.nullcontext():
                yield
        finally:
            self.virtual = virtual


def precompute_reference(policy: Policy, batches: Iterable[Batch]) -> None:
    """Fill and save `policy.reference` for `batches`, before the weights move (or with the adapter off)."""
    for batch in batches:
        if policy.reference.find_values(batch) is None:
            policy.compute_reference(batch)
    policy.reference.save()


class ObjectiveModule(nn.Module):
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
        self.value_head = policy.value_head

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        losses = self.objective.losses(self.policy, batch)
        return losses.sums, losses.metrics
