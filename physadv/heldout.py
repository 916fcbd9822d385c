"""Fixed views that judge: the same light, noise and pose for the clean sign, the artwork and its controls."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.scenes.base import Scenes
from physadv.targets.base import Classifier
from physadv.targets.spec import align_labels
from physadv.threats.base import Artwork
from physadv.transforms.world import Shots, Views, World

CHUNK = 64  # photographs at once: enough to fill two cores, little memory


def truth_of(scenes: Scenes, classes: tuple[str, ...]) -> Int[Tensor, " b"]:
    """The row among a target's classes of each scene's. UserError: one that the scenes show is missing there."""
    shown, which = scenes.labels.cpu().unique(return_inverse=True)
    rows = align_labels(tuple(scenes.classes[row] for row in shown.tolist()), classes)
    return rows[which].to(scenes.labels.device)


@dataclass(frozen=True)
class HeldOut:
    """n views, `views` of each scene; `scene` is the row of each one's scene, `truth` the target's row of its class."""

    target: Classifier
    scenes: Scenes
    world: World
    views: int
    seed: int
    places: Float[Tensor, "n 4"] | None = None  # a place of the artwork per view, where the threat draws it
    keep: bool = False  # prepared light stays in memory, for views that are asked again and again

    def __len__(self) -> int:
        return len(self.scenes) * self.views

    @property
    def scene(self) -> Int[Tensor, " n"]:
        return torch.arange(len(self.scenes)).repeat(self.views)

    @property
    def truth(self) -> Int[Tensor, " n"]:
        return truth_of(self.scenes, self.target.classes)[self.scene.to(self.scenes.labels.device)]

    @property
    def ids(self) -> list[int]:
        """The number of each view: those of a scene follow each other, so each scene meets all parts of a mixture."""
        rows = torch.arange(len(self))
        return (rows % len(self.scenes) * self.views + rows // len(self.scenes)).tolist()

    def draws(self) -> Views:
        """What was drawn for all n views, in order."""
        return self.world.draw(self.ids, seed=self.seed)

    def photographs(self, artwork: Artwork | None) -> Iterator[Float[Tensor, "chunk 3 h w"]]:
        """The views with the artwork on them, a chunk at a time."""
        for rows, shots in self._shots():
            yield shots.photograph(self._on(artwork, rows))

    @torch.no_grad()
    def logits(self, artwork: Artwork | None) -> Float[Tensor, "n c"]:
        """The target's answers."""
        return torch.cat([self.target(images) for images in self.photographs(artwork)])

    def _on(self, artwork: Artwork | None, rows: Int[Tensor, " m"]) -> Artwork | None:
        if artwork is None:
            return None
        worn = artwork.take(self.scene[rows]) if len(artwork) in (1, len(self.scenes)) else artwork.take(rows)
        return worn if self.places is None else worn.at(self.places[rows])

    def _shots(self) -> Iterator[tuple[Int[Tensor, " m"], Shots]]:
        return iter(self._kept) if self.keep else self._prepared()

    @cached_property
    def _kept(self) -> list[tuple[Int[Tensor, " m"], Shots]]:
        return list(self._prepared())

    def _prepared(self) -> Iterator[tuple[Int[Tensor, " m"], Shots]]:
        ids = self.ids
        for rows in torch.arange(len(self)).split(CHUNK):
            views = self.world.draw([ids[row] for row in rows.tolist()], seed=self.seed)
            yield rows, self.world.prepare(self.scenes.take(self.scene[rows]), views, frame=self.target.frame)
