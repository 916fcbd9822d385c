"""The inner maximum: `physadv.attack`, few steps from where an earlier search ended.

Danskin's theorem: the gradient of max_θ L at the weights is that of L at the θ found (Madry et al. 2018, section 2).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from physadv.attacks import attack
from physadv.harden.collage import pieces
from physadv.harden.memory import Kept, Memory, kept
from physadv.harden.recipe import Recipe
from physadv.location import losses
from physadv.objectives import Goal
from physadv.objectives.classification import margin
from physadv.question import Target, goal_of, objective_of
from physadv.scenes.base import Scenes
from physadv.settings import Settings
from physadv.targets.base import frozen
from physadv.threats.base import Artwork, Theta, Threat
from physadv.threats.sought import Sought, chosen
from physadv.transforms.stages import derive
from physadv.transforms.world import World


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
        goal = goal_of(self.target, "hide" if self.target.frame.whole else "untargeted")
        objective = None if reference is None else Divergence(goal, reference)
        begin = self._begin(scenes, threat, memory, rows, labels, seed=seed)
        threat = begin.threat
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
        artwork = attack(self.target, scenes, threat, **how, start=begin.theta, objective=objective).artwork
        return artwork, kept(threat, artwork, begin.slots)

    def _begin(
        self,
        scenes: Scenes,
        threat: Threat,
        memory: Memory,
        rows: Int[Tensor, " n"],
        labels: Int[Tensor, " n"],
        *,
        seed: int,
    ) -> "Begin":
        """On each image the hardest of a few: what is remembered, where it was; and it, or a random one, elsewhere."""
        pasted = self.recipe.collage and not threat.per_image and not (isinstance(threat, Sought) and threat.still)
        several = isinstance(threat, Sought) or memory.pools(threat) or pasted
        count = self.recipe.candidates if several else 1
        known = count - 1 if memory.pools(threat) else 1
        fresh: list[Any] = threat.candidates(count, seed=derive(seed, "places")) if isinstance(threat, Sought) else []
        tries = []
        for number in range(count):
            said = derive(seed, "try", number)
            slots = memory.slots(threat, rows, labels, seed=said)
            there = fresh[number - 1] if fresh else threat
            if number < max(known, 1):
                theta, there = memory.recall(threat, scenes, slots, seed=said), memory.place(there, slots)
            elif pasted:
                theta = pieces(scenes, there, seed=said)
            else:
                theta = memory.recall(threat, scenes, slots, seed=said)
            tries.append(Begin(there, theta, slots))
        return tries[0] if count == 1 else self._hardest(scenes, tries, seed=seed)

    def _hardest(self, scenes: Scenes, tries: "list[Begin]", *, seed: int) -> "Begin":
        objective = objective_of(self.target, goal_of(self.target, "untargeted"))
        how: dict[str, Any] = {"world": self.world, "objective": objective, "views": 1, "seed": derive(seed, "place")}
        with frozen(self.target.module):
            worn = [one.threat.artwork(one.theta) for one in tries]
            which = losses(self.target, scenes, worn, **how).argmin(0)
        row, first = torch.arange(len(which), device=which.device), tries[0].threat
        sought = [one.threat for one in tries if isinstance(one.threat, Sought)]
        theta = torch.stack([one.theta for one in tries])[which, row]
        slots = torch.stack([one.slots for one in tries])[which.cpu(), row.cpu()]
        return Begin(chosen(sought, which) if sought else first, theta, slots)


@dataclass(frozen=True)
class Begin:
    """Where a search begins: place, artwork, and the slots that what is found goes back to."""

    threat: Threat
    theta: Theta
    slots: Int[Tensor, " a"]
