"""Facility location and its two relatives, and the lazy greedy that maximises them."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class FacilityLocation:
    """f(A) = sum_i clip(max_{j in A} s_ij, floor_i, cap_i) - floor_i, monotone and submodular in the set A.

    With floor 0 and no cap it is facility location; with cap_i = eta max_{q in Q} s_iq the mutual information with a
    target Q, with floor_i = nu max_{p in P} s_ip the gain beside what is known, P [Kaushal et al. 2021, submodlib,
    2202.10680, whose FacilityLocationMutualInformation and FacilityLocationConditionalGain these are].

    Args:
        kernel: s [rows, candidates], not below 0: how well candidate j serves row i.
        floor, cap: [rows].
    """

    def __init__(self, kernel: np.ndarray, floor: np.ndarray | None = None, cap: np.ndarray | None = None) -> None:
        import numpy as np

        self.kernel = kernel
        self.floor = np.zeros(len(kernel)) if floor is None else floor
        self.cap = np.full(len(kernel), np.inf) if cap is None else np.maximum(cap, self.floor)
        self.best = self.floor.copy()  # [rows]: clip(max over the set so far)

    def compute_gain(self, candidate: int) -> float:
        """What a candidate adds to the set so far."""
        import numpy as np

        return float((self._best_with(candidate) - self.best).sum(dtype=np.float64))

    def add(self, candidate: int) -> None:
        """Take a candidate into the set."""
        self.best = self._best_with(candidate)

    def evaluate(self, chosen: list[int]) -> float:
        """f of a set, whatever was added so far."""
        import numpy as np

        best = self.kernel[:, chosen].max(1) if chosen else self.floor
        return float((np.clip(best, self.floor, self.cap) - self.floor).sum(dtype=np.float64))

    def _best_with(self, candidate: int) -> np.ndarray:
        import numpy as np

        return np.maximum(self.best, np.minimum(self.kernel[:, candidate], self.cap))


def choose_greedily(function: FacilityLocation, count: int) -> tuple[list[int], list[float]]:
    """`count` candidates, each the one that adds most to those before it (the first of equals), and what each adds.

    Lazily [Minoux 1978]: what a candidate added before is a bound of what it adds now, so that few are looked at again.
    Goes on where nothing is added any more. f of the result is at least 1 - 1/e of the best set's.
    """
    heap = [(-function.compute_gain(j), j) for j in range(function.kernel.shape[1])]
    heapq.heapify(heap)
    chosen: list[int] = []
    gains: list[float] = []
    while heap and len(chosen) < count:
        _, candidate = heapq.heappop(heap)
        entry = (-function.compute_gain(candidate), candidate)
        if heap and entry > heap[0]:
            heapq.heappush(heap, entry)
            continue
        function.add(candidate)
        chosen.append(candidate)
        gains.append(-entry[0])
    return chosen, gains
