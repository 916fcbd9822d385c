"""A drive towards the sign: from how far is it found, and is that far enough to stop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from physadv.heldout import WHOLE_CHUNK
from physadv.objectives import Detection
from physadv.question import answer, goal_of, objective_of, truth_in
from physadv.scenes.base import Scenes
from physadv.stats import wilson
from physadv.targets import Detector
from physadv.targets.base import frozen
from physadv.targets.boxes import Seen
from physadv.threats.base import Artwork
from physadv.transforms.stages import Draw, derive
from physadv.transforms.view import Pinhole
from physadv.transforms.world import Views, World

DISTANCES_M = tuple(round(40 * 0.1 ** (row / 13), 2) for row in range(14))  # 40 m down to 4 m, each 16 % nearer
FILMS = 2  # drives of which the photographs are kept
REACTION_S = 1.0
FRICTION = 0.7  # dry asphalt
GRAVITY = 9.81


@dataclass(frozen=True)
class Approaches:
    """Whether the sign is found, frame by frame from far to near, without and with the artwork."""

    distances_m: tuple[float, ...]
    clean: Bool[Tensor, "approaches frames"]
    attacked: Bool[Tensor, "approaches frames"]
    braking_m: float
    films: tuple[tuple[UInt8[Tensor, "frames 3 h w"], UInt8[Tensor, "frames 3 h w"]], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """never: found in no frame; late: in none from which the car can still stop."""
        early = torch.tensor([distance >= self.braking_m for distance in self.distances_m])
        told: dict[str, Any] = {"distances_m": list(self.distances_m), "braking_m": self.braking_m}
        for name, found in (("clean", self.clean), ("attacked", self.attacked)):
            never, late = ~found.any(1), ~(found & early).any(1)
            told[name] = {
                "found": found.float().mean(0).tolist(),
                "never": wilson(int(never.sum()), len(found)).to_json(),
                "late": wilson(int(late.sum()), len(found)).to_json(),
            }
        return told | {"approaches": [self._one(row) for row in range(len(self.clean))]}

    def _one(self, row: int) -> dict[str, list[bool]]:
        return {"clean": self.clean[row].tolist(), "attacked": self.attacked[row].tolist()}


def braking_m(speed_kmh: float) -> float:
    """v·t + v² / (2·μ·g): a second to react, then full braking on dry asphalt."""
    speed = speed_kmh / 3.6
    return speed * REACTION_S + speed**2 / (2 * FRICTION * GRAVITY)


def approaches(
    target: Detector,
    scenes: Scenes,
    artwork: Artwork,
    *,
    world: World,
    count: int,
    speed_kmh: float,
    seed: int,
    distances_m: Sequence[float] = DISTANCES_M,
) -> Approaches:
    """`count` drives towards staged signs. In one of them light, printer, camera and background stay as drawn."""
    objective = objective_of(target, goal_of(target, "hide"))
    assert isinstance(objective, Detection)
    rows = torch.arange(count).repeat_interleave(len(distances_m))
    found: dict[str, list[Tensor]] = {"clean": [], "attacked": []}
    taken: dict[str, list[Tensor]] = {"clean": [], "attacked": []}
    with frozen(target.module), torch.no_grad():
        for chunk in torch.arange(len(rows)).split(WHOLE_CHUNK):
            some = scenes.take(rows[chunk] % len(scenes))
            views = drive(world, rows[chunk], torch.tensor(distances_m)[chunk % len(distances_m)], seed=seed)
            truth = truth_in(target, some, views, world=world)
            shots = world.prepare(some, views, frame=target.frame)
            placed = artwork.take(rows[chunk] % len(scenes))
            assert isinstance(truth, Seen)
            for name, worn in (("clean", None), ("attacked", placed)):
                photographs = shots.photograph(worn)
                right = objective.eligible(answer(target, photographs), truth)
                there = torch.zeros(len(chunk), dtype=torch.bool)
                found[name].append(there.index_put((objective.cases(truth).image.cpu(),), right.cpu()))
                taken[name].append((photographs[rows[chunk] < FILMS] * 255).round().byte().cpu())
    clean, attacked = (torch.cat(found[name]).unflatten(0, (count, -1)) for name in ("clean", "attacked"))
    films = (torch.cat(taken[name]).unflatten(0, (min(count, FILMS), -1)) for name in ("clean", "attacked"))
    shown = tuple(zip(*(film.unbind(0) for film in films), strict=True))
    return Approaches(tuple(distances_m), clean, attacked, braking_m(speed_kmh), shown)


def drive(world: World, approach: Int[Tensor, " n"], distance_m: Float[Tensor, " n"], *, seed: int) -> Views:
    """Frame i of drive approach[i], from distance_m[i]; the sign moves out of the frame's middle as it comes near.

    One that stands X metres beside the axis is seen at f·X / distance px beside the middle.
    """
    views = world.draw(approach.tolist(), seed=derive(seed, "approach"))
    draws = tuple(
        _from(part, distance_m[rows], nearest=float(min(DISTANCES_M)))
        for rows, part in zip(views.rows, views.draws, strict=True)
    )
    return replace(views, draws=draws)


def _from(draw: Draw, distance_m: Float[Tensor, " n"], *, nearest: float) -> Draw:
    where = draw.of(draw.stages.get(Pinhole)) | {"distance_m": distance_m}
    aside = 0.5 + (draw.stand - 0.5) * (nearest / distance_m).clamp(max=1)[:, None]
    return replace(draw, params=draw.params | {Pinhole: where}, stand=aside)
