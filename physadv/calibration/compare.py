"""Do a world's views look like photographs that it was not made from? A two-sample test, pose by pose."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.capture.judge import cut_out, world_at
from physadv.capture.photos import Photo
from physadv.capture.pose import Plane, Pose
from physadv.scenes import Scenes
from physadv.targets.base import Frame
from physadv.threats import Artwork
from physadv.transforms.stages import derive
from physadv.transforms.world import World

STATISTICS = ("mean", "contrast", "sharpness")
_SIZE_PX = 96
_PERMUTATIONS = 2000


@dataclass(frozen=True)
class Verdict:
    """p: of the energy test over all statistics. ks: of each alone, Kolmogorov and Smirnov, by name."""

    p: float
    ks: dict[str, float]

    @property
    def rejected(self) -> bool:
        """At 5 %."""
        return self.p < 0.05


def statistics(crops: Float[Tensor, "n 3 h w"]) -> Float[np.ndarray, "n 3"]:
    """Mean, contrast (95th less 5th percentile) and sharpness (mean |Laplacian|) of the middle half of a sign's box."""
    quarter = crops.shape[-1] // 4
    grey = crops[:, :, quarter:-quarter, quarter:-quarter].double().mean(1).numpy()
    high, low = np.percentile(grey, (95, 5), axis=(1, 2))
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    laplacian = np.abs(4 * grey[:, 1:-1, 1:-1] - around).mean((1, 2))
    return np.stack([grey.mean((1, 2)), high - low, np.log(laplacian + 1e-4)], 1)


def crop_statistics(photo: Photo, plane: Plane, scenes: Scenes) -> Float[np.ndarray, "3"]:
    """Statistics of the sign in a photograph."""
    return statistics(cut_out(photo, plane, scenes, Frame(_SIZE_PX, 0.0)).picture[None])[0]


def foretold(
    world: World, poses: Sequence[Pose], scenes: Scenes, *, views: int, seed: int, artwork: Artwork | None = None
) -> Float[np.ndarray, "n views 3"]:
    """Statistics of `views` views of the staged sign from each pose."""
    frame, many = Frame(_SIZE_PX, 0.0), scenes.take(torch.zeros(views, dtype=torch.long))
    found = []
    for number, pose in enumerate(poses):
        there = world_at(world, pose, scenes.faces.size_mm[0])
        draws = there.draw(range(views), seed=derive(seed, "compare", number))
        with torch.no_grad():
            found.append(statistics(there.photograph(artwork, many, draws, frame=frame)))
    return np.stack(found)


def judge_world(seen: Float[np.ndarray, "n 3"], made: Float[np.ndarray, "n views 3"], *, seed: int) -> Verdict:
    """Whether each photograph could be one more view from its pose.

    Under a true world a photograph and the views from its pose are exchangeable. So its rank among them is uniform
    (ks), and the energy distance (Székely & Rizzo 2013) between photographs and views is one of those that come about
    when at every pose any of them takes the photograph's place. What differs from pose to pose is taken out first.
    """
    every = _alike(np.concatenate([seen[:, None], made], 1))
    generator = np.random.default_rng(seed)
    apart = np.linalg.norm(every[:, :, None, None] - every[None, None], axis=4)
    own = _energy(apart, np.zeros(len(seen), int))
    picks = generator.integers(0, every.shape[1], (_PERMUTATIONS, len(seen)))
    others = np.array([_energy(apart, pick) for pick in picks])
    p = float((1 + (others >= own).sum()) / (1 + _PERMUTATIONS))
    return Verdict(p, {name: _uniform(seen[:, k], made[:, :, k]) for k, name in enumerate(STATISTICS)})


def _alike(every: Float[np.ndarray, "n v k"]) -> Float[np.ndarray, "n v k"]:
    """Relative to the mean of each pose, and uncorrelated with variance 1 within poses."""
    apart = every - every.mean(1, keepdims=True)
    flat = apart.reshape(-1, apart.shape[2])
    values, axes = np.linalg.eigh(flat.T @ flat / len(flat))
    return np.asarray(apart @ axes / np.sqrt(np.maximum(values, 1e-12)))


def _energy(apart: Float[np.ndarray, "n v n v"], pick: Int[np.ndarray, " n"]) -> float:
    """2 E|X − Y| − E|X − X'| − E|Y − Y'|, X the picked one of every pose, Y the others; constants left out."""
    rows = np.arange(len(pick))
    mine = apart[rows, pick]
    total = apart.sum()
    to_all = mine.sum()
    among = mine[:, rows, pick].sum()
    n, v = len(pick), apart.shape[1] - 1
    cross = to_all - among
    rest = total - 2 * to_all + among
    return float(2 * cross / (n * n * v) - among / n**2 - rest / (n * v) ** 2)


def _uniform(seen: Float[np.ndarray, " n"], made: Float[np.ndarray, "n v"]) -> float:
    """p of the Kolmogorov-Smirnov test that each one's rank among the views from its pose is uniform."""
    order = np.sort(((made < seen[:, None]).sum(1) + 0.5) / (made.shape[1] + 1))
    n = len(order)
    distance = max((np.arange(1, n + 1) / n - order).max(), (order - np.arange(n) / n).max())
    root = np.sqrt(n) * distance + 0.12 * distance + 0.11 * distance / np.sqrt(n)  # Stephens 1970
    terms = np.arange(1, 101)
    return float(np.clip(2 * ((-1.0) ** (terms - 1) * np.exp(-2 * (terms * root) ** 2)).sum(), 0, 1))
