"""The published ways to train against attacks: how each step searches, and what it minimises."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from physadv.errors import UserError

Start = Literal["random", "image", "class", "shared"]
Loss = Literal["adversarial", "trades"]


@dataclass(frozen=True)
class Recipe:
    """The inner search and the outer loss.

    start: of the search: a random point; where the last one on the same image ended; an artwork kept for the class;
        an artwork kept for all, which is then searched on the whole shard at once.
    candidates: beginnings tried on each image, places where they are sought; the hardest is gone on from.
    collage: those that are not remembered begin as a piece of another face.
    step_size: in colour; as a share of the radius in a norm ball.
    """

    name: str
    paper: str
    loss: Loss = "adversarial"
    steps: int = 10
    step_size: float = 0.1
    ball_step: float = 0.25
    start: Start = "random"
    candidates: int = 4
    collage: bool = False


RECIPES: dict[str, Recipe] = {
    one.name: one
    for one in (
        Recipe(
            "warm",
            "Zheng et al. 2020: artworks go on from epoch to epoch; beside them pieces of other faces",
            steps=2,
            step_size=0.25,
            start="image",
            collage=True,
        ),
        Recipe("pgd", "Madry et al. 2018: ten steps from a random start"),
        Recipe("trades", "Zhang et al. 2019: clean loss + beta * KL(clean || attacked)", loss="trades"),
        Recipe("fast", "Wong et al. 2020: one long step from a random start", steps=1, step_size=0.5, ball_step=1.25),
        Recipe("location", "Wu et al. 2020 (DOA), Rao et al. 2020: the worst of many places", candidates=16),
        Recipe(
            "class", "Metzen et al. 2021 (Meta-AT): artworks kept per class", steps=2, step_size=0.15, start="class"
        ),
        Recipe(
            "universal", "Shafahi et al. 2020: artworks kept for all images", steps=2, step_size=0.15, start="shared"
        ),
    )
}


@dataclass(frozen=True)
class Plan:
    """Everything of a hardening that is no noun of its own.

    attacked: share of the images that carry an artwork. beta: weight of the divergence (TRADES).
    awp: weights are moved against the loss by this share of their length before each step (Wu et al. 2020, AWP); 0: no.
    frozen_norm: batch normalisation keeps its statistics. patience: epochs without a better held-out figure.
    shard: images searched at once, the unit that processes share; a batch is a whole number of them.
    """

    recipe: Recipe = field(default_factory=lambda: RECIPES["warm"])
    epochs: int = 12
    batch: int = 64
    shard: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    ema: float = 0.995
    clip: float = 5.0
    attacked: float = 0.5
    beta: float = 3.0
    smoothing: float = 0.0
    awp: float = 0.0
    frozen_norm: bool = False
    autocast: bool = True
    patience: int = 0

    def __post_init__(self) -> None:
        if self.batch % self.shard:
            raise UserError(f"--batch is {self.batch}; make it a multiple of {self.shard}, the shard of one search.")
        if not 0 < self.attacked <= 1:
            raise UserError(f"--attacked is {self.attacked}; give the share of attacked images, above 0 and at most 1.")


def parse_recipe(name: str) -> Recipe:
    """UserError: there is no such recipe."""
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1, cutoff=0)[0]
        raise UserError(f"There is no recipe {name!r}: did you mean {near!r}? (there are {', '.join(RECIPES)})")
    return RECIPES[name]
