"""Batches of a hardening of a classifier: signs seen through the world, most of them with an artwork on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physadv.harden.inner import Inner
from physadv.harden.losses import Labelled, loss, together
from physadv.harden.memory import Kept, Memory
from physadv.harden.recipe import Plan
from physadv.question import labels_of
from physadv.scenes.base import Scenes
from physadv.targets.base import Classifier, frozen
from physadv.targets.swift import Twin, laid
from physadv.threats.base import Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import World

Targets = Literal["labels", "online", "both"]


@dataclass(frozen=True)
class Source:
    """Scenes of one kind, what the adversary may do to them, and what they count.

    share: images of each shard. weight: of their losses.
    targets: what an attacked image is to say: its label, what the network says of its clean twin ("online"), or both
        (Uesato et al. 2019, section 3).
    """

    scenes: Scenes
    labels: Int[Tensor, " b"]
    threats: tuple[Threat, ...]
    share: int
    weight: float = 1.0
    targets: Targets = "labels"


@dataclass(frozen=True)
class Signs:
    """The learner of a classifier: shards of signs, and their loss.

    memories: one per source. twin: what the searches ask instead of the network itself.
    """

    target: Classifier
    sources: tuple[Source, ...]
    world: World
    plan: Plan
    seed: int
    memories: tuple[Memory, ...]
    twin: Twin

    @classmethod
    def of(cls, target: Classifier, sources: Sequence[Source], *, world: World, plan: Plan, seed: int) -> "Signs":
        start, classes = plan.recipe.start, len(target.classes)
        memories = tuple(Memory(start, len(one.scenes), classes) for one in sources)
        return cls(target, tuple(sources), world, plan, seed, memories, Twin.of(target))

    @property
    def steps(self) -> int:
        """Per epoch: every image of the first source once."""
        first = self.sources[0]
        return max(1, len(first.scenes) // (first.share * self.plan.batch // self.plan.shard))

    def shard(self, module: nn.Module, number: int) -> tuple[Labelled, list[tuple[int, Kept]]]:
        """Shard `number` of the training, the same whichever process makes it, and what its searches found."""
        inner = Inner(self.twin.asked(self.target, autocast=self.plan.autocast), self.world, self.plan.recipe)
        made = [self._part(inner, which, number) for which in range(len(self.sources))]
        return together([batch for batch, _ in made]), [(which, kept) for which, (_, kept) in enumerate(made)]

    def together(self, shards: list[Labelled]) -> Labelled:
        return together(shards)

    def keep(self, kept: Sequence[tuple[int, Kept]]) -> None:
        for which, one in kept:
            self.memories[which].keep([one])

    def loss(self, module: nn.Module, batch: Labelled) -> Float[Tensor, ""]:
        """Of the network in training."""
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.plan.autocast):
            logits = module(laid(batch.images, channels_last=self.twin.channels_last)).float()
        return loss(logits, batch, beta=self.plan.beta, smoothing=self.plan.smoothing)

    def _part(self, inner: Inner, which: int, number: int) -> tuple[Labelled, Kept]:
        """The images of one source in a shard: first those with an artwork, then clean ones."""
        source, plan, seed = self.sources[which], self.plan, derive(self.seed, "shard", which, number)
        rows = self._rows(source, number, which)
        scenes, labels = source.scenes.take(rows), source.labels[rows]
        ids = range(number * source.share, (number + 1) * source.share)
        worn = max(1, round(plan.attacked * len(rows)))
        threat = source.threats[number % len(source.threats)].take(rows[:worn])
        views = self.world.draw(ids[:worn], seed=derive(self.seed, "train", which))
        some, frame = scenes.take(torch.arange(worn)), self.target.frame
        shots = self.world.prepare(some, views, frame=frame)
        twins = shots.photograph(None) if self._twinned(source) else None
        reference = self._answers(inner, twins) if twins is not None and self._divergent(source) else None
        how = {"reference": reference, "seed": seed}
        found = inner.maximise(some, threat, self.memories[which], rows[:worn], labels[:worn], **how)  # type: ignore[arg-type]
        artwork = found[0].at(threat.places(views.place(), some, torch.arange(worn))) if threat.roams else found[0]
        clean = [] if twins is None else [twins]
        if worn < len(rows):
            rest = self.world.draw(ids[worn:], seed=derive(self.seed, "train", which))
            clean.append(self.world.photograph(None, scenes.take(torch.arange(worn, len(rows))), rest, frame=frame))
        return self._labelled(source, shots.photograph(artwork), clean, labels, worn), found[1]

    @torch.no_grad()
    def _answers(self, inner: Inner, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        with frozen(inner.target.module):
            answers = inner.target(images)
        assert isinstance(answers, Tensor)
        return answers

    def _labelled(
        self,
        source: Source,
        attacked: Float[Tensor, "a 3 h w"],
        clean: list[Float[Tensor, "_ 3 h w"]],
        labels: Int[Tensor, " n"],
        worn: int,
    ) -> Labelled:
        images = torch.cat([attacked, *clean])
        weight, drawn = images.new_full((len(images),), source.weight), images.new_zeros(len(images))
        twin = torch.full((len(images),), -1, device=images.device)
        if source.targets == "online":
            weight[:] = 0.0
        if self._twinned(source):
            drawn[:worn] = source.weight
            twin[:worn] = torch.arange(worn, 2 * worn, device=images.device)
            labels = torch.cat([labels[:worn], labels])
        if self._divergent(source):
            weight[:worn] = 0.0
        return Labelled(images, labels, weight, drawn, twin)

    def _twinned(self, source: Source) -> bool:
        """Whether its attacked images are compared with their clean twins."""
        return self.plan.recipe.loss == "trades" or source.targets != "labels"

    def _divergent(self, source: Source) -> bool:
        """Whether that is all that is asked of its attacked images."""
        return source.targets == "online" or (self.plan.recipe.loss == "trades" and source.targets == "labels")

    def _rows(self, source: Source, number: int, which: int) -> Int[Tensor, " share"]:
        """Every image once before any comes twice, in an order of each round's own."""
        count, first = len(source.scenes), number * source.share
        rounds = range(first // count, (first + source.share - 1) // count + 1)
        order = torch.cat([_order(count, derive(self.seed, "order", which, round_)) for round_ in rounds])
        return order[first % count :][: source.share]


def _order(count: int, seed: int) -> Int[Tensor, " count"]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def labelled_source(target: Classifier, scenes: Scenes, threats: Sequence[Threat], *, share: int) -> Source:
    """Scenes with labels of their own."""
    return Source(scenes, labels_of(target, scenes), tuple(threats), share)
