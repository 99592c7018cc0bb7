"""Which rows each client has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.data.rows import Rows
    from holdfast.pipeline.federated.settings import FederationSettings


def group_rows(rows: Rows, key: str) -> dict[str, list[int]]:
    """Indexes of the rows of each group, which `meta` names; rows without are one group of their own."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(str(row.meta.get(key, "")), []).append(index)
    return dict(sorted(groups.items()))


def split_rows(rows: Rows, settings: FederationSettings, seed: int) -> list[list[int]]:
    """The indexes of each client's rows, ascending; every row has one client, and every client at least one row.

    With `alpha` above 0 the rows of each group are shared out by proportions drawn from Dir(alpha) over the clients,
    as in Hsu, Qi and Brown 2019 (arXiv 1909.06335); else all rows are dealt out one by one.

    Raises:
        UserError: If there are fewer rows than clients.
    """
    import numpy as np

    if len(rows) < settings.clients:
        raise UserError(f"{len(rows)} rows cannot be shared out to {settings.clients} clients; set fewer --clients")
    generator = np.random.default_rng([seed, settings.clients])
    shards: list[list[int]] = [[] for _ in range(settings.clients)]
    if not settings.alpha:
        for place, index in enumerate(generator.permutation(len(rows)).tolist()):
            shards[place % settings.clients].append(index)
    else:
        for indexes in group_rows(rows, settings.group_by).values():
            shares = generator.dirichlet([settings.alpha] * settings.clients)
            ends = np.round(np.cumsum(shares) * len(indexes)).astype(int)
            order = generator.permutation(indexes).tolist()
            for shard, start, end in zip(shards, [0, *ends[:-1]], ends, strict=True):
                shard.extend(order[start:end])
    for shard in shards:
        if not shard:  # a client without rows could not train: it gets one of whoever has most
            shard.append(max(shards, key=len).pop())
    return [sorted(shard) for shard in shards]


def describe_shards(rows: Rows, shards: list[list[int]], key: str) -> list[dict[str, int]]:
    """Of each client, how many rows it has of each group."""
    of_row = {index: group for group, indexes in group_rows(rows, key).items() for index in indexes}
    out = []
    for shard in shards:
        groups = [of_row[index] for index in shard]
        out.append({group: groups.count(group) for group in sorted(set(groups))})
    return out
