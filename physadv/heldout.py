"""Fixed views that judge: the same light, noise and pose for the clean sign, the artwork and its controls."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physadv import ranks
from physadv.question import (
    Answer,
    Target,
    Truth,
    answer,
    labels_of,
    taken,
    together_answers,
    together_truths,
    truth_in,
)
from physadv.scenes.base import Scenes
from physadv.targets.base import drawing
from physadv.threats.base import Artwork, Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import Shots, Views, World

CHUNK = 64  # photographs at once: enough to fill two cores, little memory
WHOLE_CHUNK = 8  # whole ones, which are much larger


@dataclass(frozen=True)
class HeldOut:
    """n views, `views` of each scene; `scene` is the row of each one's scene, `truth` what is to be answered in them.

    threat: says where the artwork is in each view; without it, an artwork stays where it is.
    keep: prepared light stays in memory, for views that are asked again and again.
    shared: every process of `torchrun` answers its share of the chunks, and all of them learn every answer.
    """

    target: Target
    scenes: Scenes
    world: World
    views: int
    seed: int
    threat: Threat | None = None
    keep: bool = False
    shared: bool = False

    def __len__(self) -> int:
        return len(self.scenes) * self.views

    @cached_property
    def scene(self) -> Int[Tensor, " n"]:
        return torch.arange(len(self.scenes)).repeat(self.views)

    @cached_property
    def truth(self) -> Truth:
        if not self.target.frame.whole:  # a label holds in every view
            labels = labels_of(self.target, self.scenes)
            return labels[self.scene.to(labels.device)]
        ids = view_ids(self.scene, self.views)
        chunks = torch.arange(len(self)).split(self._chunk)
        parts = []
        for rows in chunks:
            views = self.world.draw([ids[row] for row in rows.tolist()], seed=self.seed)
            parts.append(truth_in(self.target, self.scenes.take(self.scene[rows]), views, world=self.world))
        return together_truths(parts, [len(rows) for rows in chunks])

    def draws(self) -> Views:
        """What was drawn for all n views, in order."""
        return self.world.draw(view_ids(self.scene, self.views), seed=self.seed)

    def photographs(self, artwork: Artwork | None) -> Iterator[Float[Tensor, "chunk 3 h w"]]:
        """The views with the artwork on them, a chunk at a time."""
        for rows, place, shots in self._shots():
            yield shots.photograph(self._on(artwork, rows, place))

    @torch.no_grad()
    def answers(self, *artworks: Artwork | None) -> list[Answer]:
        """What the target says with each of the artworks, all in the same light (and with the same random defence)."""
        mine = []
        share = self._prepared(self._chunks[ranks.rank() :: ranks.size()]) if self.shared else self._shots()
        for rows, place, shots in share:
            bare = self._answer(shots.photograph(None), int(rows[0])) if None in artworks else None
            alike = bare is not None and not bool(self._wearing[rows].any())  # nothing carries any of them
            said = [
                bare
                if bare is not None and (artwork is None or alike)
                else self._answer(shots.photograph(self._on(artwork, rows, place)), int(rows[0]))
                for artwork in artworks
            ]
            mine.append((rows, said))
        order, chunks = zip(*(ranks.gathered(mine) if self.shared else mine), strict=True)
        back = torch.cat(order).argsort()
        return [taken(together_answers(parts), back) for parts in zip(*chunks, strict=True)]

    @property
    def first(self) -> Int[Tensor, " m"]:
        """Rows of the views that `photographs` yields first."""
        return self._chunks[0]

    @cached_property
    def _wearing(self) -> Bool[Tensor, " n"]:
        return self.scenes.wearing.cpu()[self.scene]

    @cached_property
    def _chunks(self) -> list[Int[Tensor, " m"]]:
        """Rows of the views that are looked at together: first all in which something carries the artwork."""
        parts = [self._wearing.nonzero()[:, 0], (~self._wearing).nonzero()[:, 0]]
        return [chunk for part in parts if len(part) for chunk in part.split(self._chunk)]

    @property
    def _chunk(self) -> int:
        return WHOLE_CHUNK if self.target.frame.whole else CHUNK

    def _answer(self, photographs: Float[Tensor, "m 3 h w"], first: int) -> Answer:
        with drawing(self.target.module, derive(self.seed, "defence", first)):
            return answer(self.target, photographs)

    def _on(self, artwork: Artwork | None, rows: Int[Tensor, " m"], place: Float[Tensor, "m 2"]) -> Artwork | None:
        """The artwork of each view: one for all, one per scene, or one per view."""
        if artwork is None:
            return None
        per_view = len(artwork) not in (1, len(self.scenes))
        worn = artwork.take(rows if per_view else self.scene[rows])
        return worn if self.threat is None else worn.at(self.threat.places(place, self.scenes, self.scene[rows]))

    def _shots(self) -> Iterator[tuple[Int[Tensor, " m"], Float[Tensor, "m 2"], Shots]]:
        return iter(self._kept) if self.keep else self._prepared(self._chunks)

    @cached_property
    def _kept(self) -> list[tuple[Int[Tensor, " m"], Float[Tensor, "m 2"], Shots]]:
        return list(self._prepared(self._chunks))

    def _prepared(
        self, chunks: list[Int[Tensor, " _"]]
    ) -> Iterator[tuple[Int[Tensor, " m"], Float[Tensor, "m 2"], Shots]]:
        ids = view_ids(self.scene, self.views)
        for rows in chunks:
            views = self.world.draw([ids[row] for row in rows.tolist()], seed=self.seed)
            scenes = self.scenes.take(self.scene[rows])
            yield rows, views.place(), self.world.prepare(scenes, views, frame=self.target.frame)


def varies(target: Target, scenes: Scenes, world: World, threat: Threat) -> bool:
    """Whether two views of one scene can differ: by the world, the background, the artwork's place or the defence."""
    return world.random or scenes.staged or threat.roams or target.randomised


def view_ids(scene: Int[Tensor, " n"], views: int) -> list[int]:
    """Numbers of the views of scenes 0..b−1, repeated `views` times: those of one scene follow each other.

    A mixture gives view i to component i mod m, so every scene meets all of them.
    """
    scenes = len(scene) // views
    return (scene * views + torch.arange(len(scene)) // scenes).tolist()
