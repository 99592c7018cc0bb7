"""What a federated run is told besides its recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.core.files import read_json
from holdfast.errors import UserError
from holdfast.pipeline.federated.aggregation import METHODS
from holdfast.pipeline.federated.flower import require_flower
from holdfast.pipeline.run_dir import replace_json

EXCHANGES = ("workers", "flower")
FILE = "federation.json"


@dataclass(frozen=True, slots=True)
class FederationSettings:
    """How many clients train, on which rows, and what travels.

    Args:
        clients: How many there are.
        sample: Clients that train in a round, drawn without replacement; 0 = all.
        rounds: Exchanges. In each a client trains as the recipe says: `train.max_steps` or `epochs` are of one round.
        method: `fedavg`: all trained weights travel; `spafl`: thresholds only; `local`: nothing.
        alpha: Concentration of the Dirichlet distribution by which the rows of each group are shared out: 0.1 is very
            skewed, 100 nearly even; 0 = rows are dealt out evenly, whatever their group.
        group_by: Key of a row's `meta` that names its group.
        rate_decay: Factor of the learning rate from round to round.
        workers: Processes that train clients side by side; 0 = in this process.
        exchange: `workers`, or `flower`: Flower's simulation.
    """

    clients: int = 10
    sample: int = 0
    rounds: int = 10
    method: str = "fedavg"
    alpha: float = 0.0
    group_by: str = "skill"
    rate_decay: float = 1.0
    workers: int = 1
    exchange: str = "workers"

    def __post_init__(self) -> None:
        least = {"clients": 1, "rounds": 1, "sample": 0, "workers": 0, "alpha": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UserError(f"--{name} must be at least {bound}, not {getattr(self, name):g}")
        if self.sample > self.clients:
            raise UserError(f"--sample {self.sample} is more than --clients {self.clients}")
        if not 0 < self.rate_decay <= 1:
            raise UserError(f"--rate-decay must be above 0 and at most 1, not {self.rate_decay:g}")
        if self.exchange not in EXCHANGES:
            raise UserError(f"--exchange must be one of {', '.join(EXCHANGES)}, not {self.exchange}")
        if self.exchange == "flower":
            require_flower()
        if self.method not in METHODS:
            raise UserError(f"--method must be one of {', '.join(METHODS)}, not {self.method}")

    @property
    def per_round(self) -> int:
        """Clients that train in a round."""
        return self.sample or self.clients

    def check_folder(self, folder: Path, *, is_complete: bool = False) -> None:
        """Write these settings down, or see that they are those of the run in `folder`.

        Which processes train makes no difference to the result and may change.

        Raises:
            UserError: If the run there was begun with others.
        """
        settings = {key: value for key, value in asdict(self).items() if key not in ("workers", "exchange")}
        before: dict[str, Any] | None = read_json(folder / FILE)
        if before is None:
            if is_complete:
                raise UserError(f"{folder.parent}: holds a run of one training; use another output, or --restart")
            folder.mkdir(exist_ok=True)
            replace_json(folder / FILE, settings)
            return
        differences = [f"{key} is {settings[key]} here and {before.get(key)} there" for key in settings
                   if settings[key] != before.get(key)]  # fmt: skip
        if differences:
            raise UserError(
                f"{folder}: holds a federated run with other settings ({'; '.join(differences)}); use these, another "
                "output, or --restart"
            )
