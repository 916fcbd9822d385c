"""What is audited: a target as it was, as a naive attacker sees it, and as it is deployed."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from physadv.heldout import HeldOut, varies
from physadv.objectives import Goal, parse_goal
from physadv.objectives.classification import margin
from physadv.question import truth_of
from physadv.scenes.base import Scenes
from physadv.targets.base import Classifier
from physadv.threats.base import Artwork, Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import World

JUDGED = 8  # views of a scene that judge it, where they differ


@dataclass(frozen=True)
class Answers:
    """What the deployed target says to scenes, the median over their fresh views.

    margin: negative where the goal is reached. abstains: the share of views without an answer.
    """

    margin: Float[Tensor, " m"]
    correct: Bool[Tensor, " m"]
    abstains: Float[Tensor, " m"]

    @property
    def broken(self) -> Bool[Tensor, " m"]:
        return self.margin < 0


@dataclass(frozen=True)
class Case:
    """plain: without the defence. naive: gradients as they are. deployed: what judges and what adaptive attacks see.

    Without a defence all three are the same target. threat: within the budget; boundless: without one.
    """

    plain: Classifier
    naive: Classifier
    deployed: Classifier
    scenes: Scenes
    threat: Threat
    boundless: Threat
    world: World
    goal: str
    seed: int

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def defended(self) -> bool:
        return self.deployed is not self.plain

    @property
    def random(self) -> bool:
        """Whether one artwork on one scene can have several answers."""
        return varies(self.deployed, self.scenes, self.world, self.threat)

    def as_random(self) -> "Case":
        """The same, its targets known to be random, whatever they say of themselves."""
        naive, deployed = (replace(target, randomised=True) for target in (self.naive, self.deployed))
        plain = self.plain if self.defended else deployed
        return replace(self, plain=plain, naive=naive, deployed=deployed)

    @property
    def truth(self) -> Int[Tensor, " n"]:
        return truth_of(self.scenes, self.plain.classes)

    def goal_of(self, target: Classifier) -> Goal:
        return parse_goal(self.goal, target.classes)

    def judge(self, rows: Int[Tensor, " m"], artwork: Artwork | None, threat: Threat) -> Answers:
        """The scenes `rows` with an artwork each, in fresh views (in the one, where all are alike)."""
        views = JUDGED if self.random else 1
        seed = derive(self.seed, "judge")
        held_out = HeldOut(self.deployed, self.scenes.take(rows), self.world, views, seed, threat.take(rows))
        (logits,) = held_out.answers(artwork)
        goal = self.goal_of(self.deployed)
        answer = logits.argmax(1)
        shape = (views, len(rows))
        return Answers(
            margin=margin(logits, held_out.truth, goal).reshape(shape).quantile(0.5, 0),
            correct=(answer == held_out.truth).reshape(shape).float().mean(0) > 0.5,
            abstains=(answer == (-1 if goal.abstain is None else goal.abstain)).reshape(shape).float().mean(0),
        )
