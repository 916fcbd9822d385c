"""The inner maximum: `physadv.attack`, few steps from where an earlier search ended.

Danskin's theorem: the gradient of max_θ L at the weights is that of L at the θ found (Madry et al. 2018, section 2).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, softmax

from physadv.attacks import attack
from physadv.harden.memory import Kept, Memory, kept
from physadv.harden.recipe import Recipe
from physadv.location import worst
from physadv.objectives import Goal
from physadv.objectives.classification import margin
from physadv.question import Target, goal_of, objective_of
from physadv.scenes.base import Scenes
from physadv.settings import Settings
from physadv.targets.base import frozen
from physadv.threats.base import Artwork, Theta, Threat
from physadv.threats.sought import Sought
from physadv.transforms.stages import derive
from physadv.transforms.world import World


class Mixed(nn.Module):
    """A network under autocast, its answers in float32: half the time of a step, also of the search."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Tensor | tuple[Tensor, ...]:
        """Logits; of a detector, boxes and scores."""
        with torch.autocast(images.device.type, torch.bfloat16):
            answer = self.module(images.contiguous(memory_format=torch.channels_last))
        return answer.float() if isinstance(answer, Tensor) else tuple(part.float() for part in answer)


@dataclass(frozen=True)
class Divergence:
    """−KL(reference ‖ answer): what the inner search of TRADES minimises (Zhang et al. 2019, eq. 5)."""

    goal: Goal
    reference: Float[Tensor, "n c"]

    def loss(self, logits: Float[Tensor, "v c"], truth: Int[Tensor, " v"]) -> Float[Tensor, " v"]:
        wanted = softmax(self.reference.repeat(len(logits) // len(self.reference), 1), 1)
        return -kl_div(log_softmax(logits, 1), wanted, reduction="none").sum(1)

    def success(self, logits: Float[Tensor, "v c"], truth: Int[Tensor, " v"]) -> Tensor:
        return margin(logits, truth, self.goal) < 0

    def eligible(self, logits: Float[Tensor, "v c"], truth: Int[Tensor, " v"]) -> Tensor:
        return logits.argmax(1) == truth


@dataclass(frozen=True)
class Inner:
    """Searches on some images under the world of the training; `target` answers as the search is to see it."""

    target: Target
    world: World
    recipe: Recipe
    objective: str = "margin"

    def maximise(
        self,
        scenes: Scenes,
        threat: Threat,
        memory: Memory,
        rows: Int[Tensor, " n"],
        labels: Int[Tensor, " n"],
        *,
        reference: Float[Tensor, "n c"] | None = None,
        seed: int,
    ) -> tuple[Artwork, Kept]:
        """An artwork for the images `rows` (of which `scenes` and `threat` are taken), and what to remember.

        reference: clean answers, where the loss is a divergence from them.
        """
        slots = memory.slots(rows, labels, seed=seed)
        start = memory.recall(threat, scenes, slots, seed=seed)
        goal = goal_of(self.target, "hide" if self.target.frame.whole else "untargeted")
        objective = None if reference is None else Divergence(goal, reference)
        if isinstance(threat, Sought):
            threat = self._place(scenes, threat, memory, slots, start, seed=seed)
        settings = Settings(
            goal=goal.name,
            objective=self.objective,
            steps=self.recipe.steps,
            step_size=self.recipe.ball_step * threat.ball.radius if threat.ball else self.recipe.step_size,
            batch=len(rows),
            views=1,
            per_scene=self.recipe.start != "shared",
            held_out=0,
        )
        how: dict[str, Any] = {"world": self.world, "settings": settings, "seed": derive(seed, "search")}
        artwork = attack(self.target, scenes, threat, **how, start=start, objective=objective).artwork
        return artwork, kept(threat, artwork, slots)

    def _place(
        self,
        scenes: Scenes,
        threat: Sought,
        memory: Memory,
        slots: Int[Tensor, " n"],
        start: Theta,
        *,
        seed: int,
    ) -> Sought:
        """The worst of a few places (shapes) for the artwork as it is: where it was, and new ones."""
        seed = derive(seed, "place")
        first = memory.place(threat.candidates(1, seed=derive(seed, "first"))[0], slots)
        if self.recipe.candidates == 1:
            return first
        candidates = [first, *threat.candidates(self.recipe.candidates - 1, seed=seed)]
        objective = objective_of(self.target, goal_of(self.target, "untargeted"))
        how: dict[str, Any] = {"world": self.world, "objective": objective, "views": 1, "keep": 1, "seed": seed}
        with frozen(self.target.module):
            return worst(self.target, scenes, candidates, [start], **how)[0]


def mixed(target: Target) -> Target:
    """The same target under autocast."""
    return replace(target, module=Mixed(target.module))
