"""Batches of a hardening of a detector: photographs with one artwork on the signs of a class, beside clean ones.

A detector is attacked by one printed artwork for all photographs of a class, so that is what the inner search looks
for: a few artworks per class and raster go on from step to step (Shafahi et al. 2020, universal adversarial training).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from physadv.augment import Augmentation, Cutout, Labelled, augmented
from physadv.detection_training import DetectorRecipe, Truth, cutouts_of, loss_of, repeats
from physadv.errors import UserError
from physadv.harden.inner import Inner
from physadv.harden.memory import Kept, Memory
from physadv.harden.recipe import Plan
from physadv.question import labels_of, truth_in
from physadv.scenes.base import Scenes
from physadv.targets.boxes import UNKNOWN, Seen
from physadv.targets.detector import Detector
from physadv.targets.fcos import SignsDet
from physadv.targets.swift import Swift
from physadv.threats import load_threat
from physadv.threats.base import Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import World

SLOTS = 4  # artworks per class and raster: few, so that each of them goes on often
WORN = 0.8  # of the signs of the class, in the photographs of one shard
OBJECTIVE = "margin-mean"  # of the search: pulls at every box of a sign, not at the surest alone
WHOLE = "patches, stickers, rings and posters at a fixed or random place"


@dataclass(frozen=True)
class Batch:
    """n pictures and what is to be found in each."""

    images: Float[Tensor, "n 3 s s"]
    truth: tuple[Truth, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Wearers:
    """The photographs that show a class whose signs wear an artwork, and what the artwork may be.

    label: row of the scenes' classes. rows: of the photographs.
    """

    label: int
    rows: Int[Tensor, " k"]
    threats: tuple[Threat, ...]


@dataclass(frozen=True)
class Clean:
    """Photographs as albumentations shows them; how often each comes; what may be pasted into them."""

    photographs: tuple[Labelled, ...]
    turns: Float[Tensor, " b"]
    cutouts: tuple[Cutout, ...]

    @classmethod
    def of(cls, photographs: Sequence[Labelled], drawn: Sequence[Cutout], *, classes: int, seed: int) -> "Clean":
        """As in the training from scratch (docs/detector-training.md)."""
        recipe, generator = DetectorRecipe(), torch.Generator().manual_seed(derive(seed, "cut-outs"))
        cutouts = cutouts_of(photographs, drawn, recipe.staged, generator)
        return cls(tuple(photographs), repeats(photographs, classes, recipe.common), tuple(cutouts))

    def batch(self, count: int, how: Augmentation, *, seed: int) -> Batch:
        """Photographs by chance, each cropped, pasted into, lit and blurred anew."""
        generator = torch.Generator().manual_seed(derive(seed, "clean"))
        rows = torch.multinomial(self.turns, count, replacement=True, generator=generator).tolist()
        seen = [
            augmented(self.photographs, row, self.cutouts, how, seed=derive(seed, "picture", place))
            for place, row in enumerate(rows)
        ]
        images = torch.stack([torch.from_numpy(one.image) for one in seen]).permute(0, 3, 1, 2).float() / 255
        return Batch(images, tuple((torch.from_numpy(one.boxes), torch.from_numpy(one.labels)) for one in seen))

    def __len__(self) -> int:
        return len(self.photographs)


@dataclass(frozen=True)
class Photographs:
    """The learner of a detector: shards of photographs, and their loss. memories: one per class that is attacked.

    Shard i attacks class i mod k, by one threat after the other.
    """

    target: Detector
    scenes: Scenes
    wearers: tuple[Wearers, ...]
    clean: Clean
    world: World
    plan: Plan
    seed: int
    memories: tuple[Memory, ...] = field(default=())

    @classmethod
    def of(
        cls,
        target: Detector,
        scenes: Scenes,
        clean: Clean,
        *,
        classes: Sequence[str],
        threats: Sequence[str],
        world: World,
        plan: Plan,
        seed: int,
        resolution_px: int = 64,
    ) -> "Photographs":
        """classes: whose signs wear artworks. UserError: a threat that is no print for all photographs of a class."""
        check_trainable(target, plan)
        how = {"threats": threats, "seed": seed, "resolution_px": resolution_px}
        wearers = tuple(wearing(scenes, name, **how) for name in classes)  # type: ignore[arg-type]
        memories = tuple(Memory("shared", 0, 0, shared=SLOTS) for _ in wearers)
        return cls(target, scenes, wearers, clean, world, plan, seed, memories)

    @property
    def steps(self) -> int:
        """Per epoch: as many pictures as there are photographs."""
        return max(1, len(self.clean) // self.plan.batch)

    def shard(self, module: nn.Module, number: int) -> tuple[Batch, list[tuple[int, Kept]]]:
        """Shard `number` of the training, the same whichever process makes it, and what its search found."""
        count = max(1, round(self.plan.attacked * self.plan.shard))
        which, seed = number % len(self.wearers), derive(self.seed, "shard", number)
        attacked, kept = self._attacked(which, number, count, seed)
        parts = [attacked]
        if count < self.plan.shard:
            how = Augmentation(self.target.frame.size_px)
            parts.append(self.clean.batch(self.plan.shard - count, how, seed=seed))
        return self.together(parts), [(which, kept)]

    def together(self, shards: list[Batch]) -> Batch:
        device = shards[0].images.device
        truth = [(boxes.to(device), labels.to(device)) for shard in shards for boxes, labels in shard.truth]
        return Batch(torch.cat([shard.images.to(device) for shard in shards]), tuple(truth))

    def keep(self, kept: Sequence[tuple[int, Kept]]) -> None:
        for which, one in kept:
            self.memories[which].keep([one])

    def loss(self, module: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Of the network in training: the same as without an adversary."""
        assert isinstance(module, SignsDet)
        return loss_of(module, batch.images, batch.truth, autocast=self.plan.autocast)

    def _attacked(self, which: int, number: int, count: int, seed: int) -> tuple[Batch, Kept]:
        """Photographs of a class, seen through the world with what a few steps of search make of a kept artwork."""
        wearers, turn, frame = self.wearers[which], number // len(self.wearers), self.target.frame
        threat = wearers.threats[turn % len(wearers.threats)]
        rows = wearers.rows[rows_of_turn(len(wearers.rows), turn * count, count, seed=derive(self.seed, which))]
        scenes = dressed(self.scenes.take(rows), wearers.label, seed=seed)
        asked = Swift(self.target.module, channels_last=True, autocast=self.plan.autocast)
        inner = Inner(replace(self.target, module=asked), self.world, self.plan.recipe, OBJECTIVE)
        found, kept = inner.maximise(scenes, threat, self.memories[which], rows, rows, seed=seed)
        ids = range(number * count, (number + 1) * count)
        views = self.world.draw(ids, seed=derive(self.seed, "train"))
        artwork = found.at(threat.places(views.place(), scenes, torch.arange(count)))
        truth = truth_in(self.target, scenes, views, world=self.world)
        images = self.world.photograph(artwork, scenes, views, frame=frame)
        return Batch(images, truths(truth, count)), kept


def truths(seen: Seen, images: int) -> tuple[Truth, ...]:
    """Boxes and labels of each picture; signs of which the detector has no class are not to be found."""
    known = seen.take(seen.label != UNKNOWN)
    return tuple((known.box[known.image == row], known.label[known.image == row]) for row in range(images))


def dressed(scenes: Scenes, label: int, *, seed: int) -> Scenes:
    """Most signs of a class wear the artwork, drawn anew by `seed`; at least one does."""
    mine = scenes.labels == label
    some = mine & _chance(mine, derive(seed, "worn"))
    return replace(scenes, worn=some if bool(some.any()) else mine)


def _chance(like: Bool[Tensor, " m"], seed: int) -> Bool[Tensor, " m"]:
    return (torch.rand(len(like), generator=torch.Generator().manual_seed(seed)) < WORN).to(like.device)


def wearing(scenes: Scenes, name: str, *, threats: Sequence[str], seed: int, resolution_px: int = 64) -> Wearers:
    """The photographs that show the class `name`, and the threats on its face.

    UserError: it is not there, or a threat is of one photograph or sought on each.
    """
    if name not in scenes.classes:
        raise UserError(f"The photographs have no signs of class {name}; there are: {', '.join(scenes.classes)}.")
    label = scenes.classes.index(name)
    all_of_them = replace(scenes, worn=scenes.labels == label)
    made = tuple(load_threat(one, all_of_them, seed=seed, resolution_px=resolution_px) for one in threats)
    for threat in made:
        if threat.per_image or threat.sought:
            raise UserError(f"A detector is attacked by one print for all photographs, not {threat.name}: use {WHOLE}.")
    return Wearers(label, all_of_them.wearing.nonzero()[:, 0].cpu(), made)


def rows_of_turn(count: int, first: int, share: int, *, seed: int) -> Int[Tensor, " share"]:
    """`share` of `count` rows from the `first` on: each once before any comes twice, each round in its own order."""
    rounds = range(first // count, (first + share - 1) // count + 1)
    generators = [torch.Generator().manual_seed(derive(seed, "order", one)) for one in rounds]
    order = torch.cat([torch.randperm(count, generator=one) for one in generators])
    return order[first % count :][:share]


def check_trainable(target: Detector, plan: Plan) -> None:
    """UserError: a detector without a training loss here, or a recipe that does not search for all photographs."""
    if not isinstance(target.module, SignsDet):
        raise UserError(
            f"{target.name} has no training loss here: harden a signs-det (builtin:signs-det, safetensors:)."
        )
    if plan.recipe.start != "shared" or plan.recipe.loss != "adversarial":
        raise UserError(f"--recipe {plan.recipe.name} is for classifiers; of detectors it is universal.")


def attackable(target: Detector, scenes: Scenes) -> tuple[str, ...]:
    """Classes of the scenes that the detector knows."""
    labels = labels_of(target, scenes)
    return tuple(scenes.classes[row] for row in sorted({int(row) for row in scenes.labels[labels != UNKNOWN]}))
