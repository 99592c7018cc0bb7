"""Accelerators as their makers describe them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from holdfast.errors import UserError

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One kind of accelerator, and the machine it usually stands in.

    Args:
        flops: Products in bf16 a second, dense, sums in fp32.
        memory: GiB.
        bandwidth: Of its memory, bytes a second.
        link: To the others of its machine, bytes a second in one direction.
        network: To other machines, bytes a second in one direction; of a machine's network its share.
        per_machine: How many stand in one.
        source: Where these are from.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    network: float
    per_machine: int
    source: str


def describe_card(
    tflops: float, memory: float, bandwidth: float, link: float, network: float, per_machine: int, source: str
) -> Accelerator:
    """A kind in TFLOP/s, GB (of memory these are GiB), and GB/s, as data sheets have them."""
    return Accelerator(tflops * TERA, memory, bandwidth * GIGA, link * GIGA, network * GIGA, per_machine, source)


KINDS = {
    "a100-40": describe_card(
        312, 40, 1555, 300, 25, 8, "NVIDIA A100 data sheet (SXM, 40 GB); DGX A100: 200 Gb/s a GPU"
    ),
    "a100": describe_card(312, 80, 2039, 300, 25, 8, "NVIDIA A100 data sheet (SXM, 80 GB); DGX A100: 200 Gb/s a GPU"),
    "h100": describe_card(989, 80, 3350, 450, 50, 8, "NVIDIA H100 data sheet (SXM); DGX H100: 400 Gb/s a GPU"),
    "h200": describe_card(989, 141, 4800, 450, 50, 8, "NVIDIA H200 data sheet (SXM); DGX H200: 400 Gb/s a GPU"),
    "b200": describe_card(2250, 180, 8000, 900, 50, 8, "NVIDIA DGX B200 data sheet, an eighth; 400 Gb/s a GPU"),
    "mi300x": describe_card(1307, 192, 5300, 448, 50, 8, "AMD Instinct MI300X data sheet; 400 Gb/s a GPU supposed"),
    "l40s": describe_card(362, 48, 864, 32, 12.5, 8, "NVIDIA L40S data sheet (PCIe 4.0); 100 Gb/s a GPU supposed"),
    "l4": describe_card(121, 24, 300, 32, 3.125, 8, "NVIDIA L4 data sheet (PCIe 4.0); 25 Gb/s a GPU supposed"),
    "a10": describe_card(125, 24, 600, 32, 3.125, 4, "NVIDIA A10 data sheet (PCIe 4.0); 25 Gb/s a GPU supposed"),
}
"""By the names of `holdfast plan --kind`. NVLink and PCIe are given for both directions together: halves stand here."""


def find_accelerator(kind: str) -> Accelerator:
    """The accelerator of that name.

    Raises:
        UserError: If there is none.
    """
    if kind.lower() not in KINDS:
        close = difflib.get_close_matches(kind.lower(), KINDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"--kind {kind}: there are {', '.join(KINDS)}{hint} Others: --assume flops=..., memory=...")
    return KINDS[kind.lower()]
