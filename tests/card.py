"""A device that computes on the CPU and is none: what is not put on it explicitly does not meet what is.

A `CardTensor` holds an ordinary tensor and says that it lives on `maia:0`, a device that torch knows by name only. As
on a GPU, tensors meet only on one device (a single number of the CPU may join), values come back by `.cpu()`, `.item()`
or `.tolist()`, and NumPy sees none of them. `Card` sees every operation of its thread: those that make tensors on the
card, those that mix devices (an error, as on a GPU), and how many matrix products are done on it and elsewhere.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "maia"
"""A type of device that torch knows by name and nobody has."""
CARD = torch.device(NAME, 0)


def register() -> None:
    """Let torch know the device: one of them, with a random generator that is the CPU's."""
    if hasattr(torch, NAME):
        return
    module = types.ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True  # type: ignore[attr-defined]
    module.device_count = lambda: 1  # type: ignore[attr-defined]
    module.current_device = lambda: 0  # type: ignore[attr-defined]
    module.set_device = lambda device: None  # type: ignore[attr-defined]
    module._is_in_bad_fork = lambda: False  # type: ignore[attr-defined]
    module.manual_seed_all = lambda seed: None  # type: ignore[attr-defined]
    module.get_rng_state = lambda device=None: torch.get_rng_state()  # type: ignore[attr-defined]
    module.set_rng_state = lambda state, device=None: None  # type: ignore[attr-defined]
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]  # type: ignore[attr-defined]
    torch._register_device_module(NAME, module)


class CardTensor(torch.Tensor):
    """A tensor on the card; `elem` holds its numbers."""

    elem: torch.Tensor

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> CardTensor:
        assert type(elem) is torch.Tensor, type(elem)
        made = torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype,
            device="meta", requires_grad=False,
        )  # fmt: skip
        made.elem = elem
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CARD

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: CardTensor) -> None:  # the numbers live in `elem`, which PyTorch's own setter leaves behind
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.elem = value.elem

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["elem"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], context: None, size: Any, stride: Any) -> CardTensor:
        return CardTensor(inner["elem"])

    def __repr__(self) -> str:  # type: ignore[override]
        return f"CardTensor({self.elem})"

    def tolist(self) -> Any:
        return self.elem.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


ACROSS = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
"""Operations that may take tensors of two devices."""
PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}
"""What a model spends its time on."""
INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
"""Of these only the tensor itself says where the result is; indices may come from the CPU."""


def _backward_on_card(asked: Any) -> bool:
    """Whether a backward pass makes a tensor for one on the card, which it takes for one on meta."""
    return torch.device(asked).type == "meta" and torch._C._current_graph_task_id() != -1


def take_out(value: Any, tensors: list[torch.Tensor]) -> Any:
    """The numbers of a tensor, or of those in a list; torch's own trees take several times as long.

    Args:
        tensors: What is met is added here.
    """
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return value.elem if isinstance(value, CardTensor) else value
    return type(value)([take_out(item, tensors) for item in value]) if isinstance(value, (list, tuple)) else value


def put_in(value: Any, owners: dict[int, CardTensor]) -> Any:
    """A result, or a list of them, on the card; of numbers that have an owner it is that tensor."""
    if isinstance(value, torch.Tensor):
        return owners[id(value)] if id(value) in owners else CardTensor(value)
    return type(value)([put_in(item, owners) for item in value]) if isinstance(value, (list, tuple)) else value


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the card: on the numbers of its tensors, with its results on the card."""
    tensors: list[torch.Tensor] = []
    plain_args = [take_out(value, tensors) for value in args]
    plain_kwargs = {key: take_out(value, tensors) for key, value in kwargs.items()}
    cards = [t for t in tensors if isinstance(t, CardTensor)]
    others = [t for t in tensors if not isinstance(t, CardTensor) and t.ndim]
    if func in INDEXED and isinstance(args[0], CardTensor):
        others = [t for t in others if t.is_floating_point()]
    if cards and others and func not in ACROSS:
        raise RuntimeError(f"{func}: tensors on {CARD} and on the {others[0].device}, {tuple(others[0].shape)}")
    asked = kwargs.get("device")
    here = bool(cards) if asked is None else torch.device(asked).type == NAME or _backward_on_card(asked)
    if func == torch.ops.aten.copy_.default:
        here = isinstance(args[0], CardTensor)
    if asked is not None and here:
        plain_kwargs["device"] = "cpu"
    plain_kwargs.pop("pin_memory", None)
    out = func(*plain_args, **plain_kwargs)
    if not here:
        return out
    owners = {id(t.elem): t for t in cards}  # what is changed in place stays the tensor that it was
    return put_in(out, owners)


class Card(TorchDispatchMode):
    """The card, while this is entered; `counts` has the matrix products on it ("card product") and elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.counts["card product" if isinstance(args[0], CardTensor) else "cpu product"] += 1
        return computed(func, args, kwargs or {})


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Attention by its definition; torch's own makes masks on what it takes for the device of its inputs."""
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).to(v.dtype) @ v


NUMBERS = {torch.Tensor.__setitem__: (2,), torch.where: (1, 2), torch.Tensor.where: (2,)}
"""Arguments that may be numbers, of which torch makes tensors where it thinks that the others are: on meta."""


class Making(TorchFunctionMode):
    """What torch does for a device without asking the dispatcher: tensors of Python numbers, and attention."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and str(kwargs.get("device")).startswith(NAME):
            del kwargs["device"]
            return func(*args, **kwargs).to(CARD)
        if func is torch.Tensor.new_tensor and isinstance(args[0], CardTensor):
            return torch.tensor(*args[1:], dtype=kwargs.get("dtype", args[0].dtype)).to(CARD)
        if func is F.scaled_dot_product_attention and isinstance(args[0], CardTensor):
            return attention(*args, **kwargs)
        numbers = NUMBERS.get(func, ())
        like = next((a for a in reversed(args) if isinstance(a, CardTensor)), None)
        if like is not None and any(isinstance(args[i], int | float) for i in numbers):
            wrapped = [i for i in numbers if isinstance(args[i], int | float)]
            made = {i: torch.full((), args[i], dtype=like.dtype, device=CARD) for i in wrapped}
            args = tuple(made.get(i, a) for i, a in enumerate(args))
        return func(*args, **kwargs)


@contextmanager
def card() -> Iterator[Card]:
    """The card is there inside, and counts."""
    register()
    with Making(), Card() as mode:
        yield mode
