"""What a training changes: weights, their average, the optimiser's moments. Kept in one file, so that it can go on."""

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.files import read_tensors, write_tensors

M = TypeVar("M", bound=nn.Module)

WARM_UP = 0.05  # of the steps


@dataclass
class Learning(Generic[M]):
    """AdamW without decay of biases and norms, gradients clipped, an exponential average of the weights."""

    module: M
    average: M
    optimiser: torch.optim.AdamW
    step: int = 0

    @classmethod
    def of(cls, module: M, *, learning_rate: float, weight_decay: float) -> "Learning[M]":
        """Trains `module` itself; the average begins as a copy of it."""
        flat = [one for one in module.parameters() if one.ndim < 2]
        deep = [one for one in module.parameters() if one.ndim >= 2]
        groups = [{"params": deep, "weight_decay": weight_decay}, {"params": flat, "weight_decay": 0.0}]
        return cls(module, deepcopy(module).eval(), torch.optim.AdamW(groups, lr=learning_rate))

    def descend(self, loss: Float[Tensor, ""], *, rate: float, clip: float) -> float:
        """One step of the optimiser; the loss before it."""
        self.optimiser.zero_grad()
        loss.backward()
        return self.follow(loss, rate=rate, clip=clip)

    def follow(self, loss: Float[Tensor, ""], *, rate: float, clip: float) -> float:
        """The same where the gradients are there already."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        nn.utils.clip_grad_norm_(self.module.parameters(), clip)
        self.optimiser.step()
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def remember(self, decay: float) -> None:
        """average <- decay * average + (1 - decay) * module; a young average forgets where it began."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.state_dict().values(), self.module.state_dict().values(), strict=True):
            mean.lerp_(now, 1 - decay) if mean.is_floating_point() else mean.copy_(now)

    def save(
        self, path: Path, told: Mapping[str, Any], *, also: Mapping[str, Tensor] | None = None, numbers: Any = None
    ) -> None:
        """told: what the training is of. also, numbers: what else it takes to go on."""
        tensors = {f"{part}.{name}": value for part, values in self._states().items() for name, value in values.items()}
        tensors |= {f"also.{name}": value for name, value in (also or {}).items()}
        write_tensors(path, tensors, {"step": self.step, "told": told, "numbers": numbers})

    def load(self, path: Path, told: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """Tensors and numbers that were saved beside. UserError: the checkpoint is of another training."""
        tensors, metadata = read_tensors(path)
        mine, saved = json.loads(json.dumps(told)), metadata.get("told") or {}
        other = sorted(name for name in mine.keys() | saved.keys() if mine.get(name) != saved.get(name))
        if other:
            raise UserError(
                f"{path} is of a training with other options ({', '.join(other)}); give those again, or --overwrite."
            )
        self.step = metadata["step"]
        for part, values in self._states(saved=tensors).items():
            for name, value in values.items():
                value.copy_(tensors[f"{part}.{name}"])
        also = {name.removeprefix("also."): value for name, value in tensors.items() if name.startswith("also.")}
        return also, metadata.get("numbers")

    def _states(self, *, saved: Mapping[str, Tensor] | None = None) -> dict[str, dict[str, Tensor]]:
        """Every tensor by name. saved: the optimiser's moments are made where these have some."""
        moments: dict[str, Tensor] = {}
        for row, one in enumerate(one for group in self.optimiser.param_groups for one in group["params"]):
            state = self.optimiser.state[one]
            if saved is not None and not state and f"optimiser.{row}.exp_avg" in saved:
                state |= {name: torch.zeros_like(one) for name in ("exp_avg", "exp_avg_sq")} | {"step": torch.zeros(())}
            moments |= {f"{row}.{name}": value for name, value in state.items()}
        return {"module": self.module.state_dict(), "average": self.average.state_dict(), "optimiser": moments}


def cosine(step: int, steps: int, peak: float, *, rise: float = WARM_UP) -> float:
    """The rate of a step: linear warm-up, then a cosine down to a hundredth of the peak."""
    rising = max(1.0, rise * steps)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, steps - rising))))
