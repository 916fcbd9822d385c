"""Search all solutions: a sticker at every place of a grid over the sign's face, each one judged on the same views."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, grid_sample

from physadv.errors import UserError
from physadv.evaluation import PLAIN
from physadv.heldout import HeldOut
from physadv.objectives import Objective
from physadv.scenes.base import Scenes
from physadv.stats import Rate, Z, bootstrap_interval, cluster_rate, student, wilson
from physadv.targets.base import frozen
from physadv.threats import Artwork, covered_share, parse_threat
from physadv.threats.catalogue import DEFAULT_RESOLUTION_PX
from physadv.threats.patch import Patch
from physadv.threats.printed import faces_in_use
from physadv.transforms.warp import pixel_grid

ON_FACE = 0.995
"""The share of what a sticker covers that must be opaque face; less than all of it, because edges are antialiased."""

OWN = "own"
"""The size that an artwork has already."""

_PLACES = 512  # places tested at once: bounds the memory of fine grids
_RESAMPLES = 2000
_AGREED = 1e-12


@dataclass(frozen=True)
class Panel:
    """One size and colour, at every place of the grid where it lies on the face: p candidates.

    cells: row and column of each place on the grid; places_mm: xyxy on the surface.
    """

    size: str
    colour: str
    artwork: Artwork
    cells: Int[Tensor, "p 2"]
    places_mm: Float[Tensor, "p 4"]

    def __len__(self) -> int:
        return len(self.places_mm)

    def only(self, row: int) -> "Panel":
        """The panel of that place alone."""
        return replace(self, cells=self.cells[row : row + 1], places_mm=self.places_mm[row : row + 1])

    def candidate(self, row: int) -> Artwork:
        """The sticker at place `row`, as it is saved, printed and judged elsewhere."""
        x0, y0, x1, y1 = self.places_mm[row].tolist()
        name = Patch((round(x1 - x0, 1), round(y1 - y0, 1)), centre=(round((x0 + x1) / 2, 1), round((y0 + y1) / 2, 1)))
        return replace(self.artwork, place_mm=self.places_mm[row : row + 1], record={"threat": name.name})


@dataclass(frozen=True)
class Tried:
    """What every candidate of a panel did to each of the n views."""

    panel: Panel
    won: Bool[Tensor, "p n"]
    loss: Float[Tensor, "p n"]


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences in [−1, 1] over n views, and its 95 % interval; None where n = 0."""

    mean: float | None
    n: int
    lo: float | None
    hi: float | None

    def to_json(self) -> dict[str, Any]:
        return {"difference": self.mean, "n": self.n, "ci95": [self.lo, self.hi] if self.n else None}


def solid(colours: Sequence[str]) -> dict[str, Artwork]:
    """Stickers of one colour each, to be sized by `lay_out`. UserError: no colour, or one that is not in `PLAIN`."""
    side = DEFAULT_RESOLUTION_PX
    unknown = [colour for colour in colours if colour not in PLAIN]
    if unknown or not colours:
        raise UserError(f"--colours knows no {unknown[0] if unknown else ''!r}: give some of {', '.join(PLAIN)}.")
    rgb = {colour: torch.full((1, 3, side, side), PLAIN[colour]) for colour in colours}
    unit = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    return {colour: Artwork(rgb[colour], torch.ones(1, 1, side, side), unit).quantised() for colour in colours}


def lay_out(scenes: Scenes, artworks: Mapping[str, Artwork], sizes: Sequence[str], *, grid: int) -> tuple[Panel, ...]:
    """A panel per size and artwork, on `grid` x `grid` centres: those of the cells of an even grid over the face's box.

    sizes: a share of the face's opaque area (`5%`), a width (`80mm`), or `OWN`; the artwork keeps its proportions.
    A place counts if at least `ON_FACE` of what the sticker covers there is opaque face.
    UserError: several faces, no sizes, a size that is none or does not fit, a size that has no place on the grid.
    """
    faces = faces_in_use(scenes)
    if len(faces) > 1:
        raise UserError("A scan maps one face, and these scenes show several: choose one with --classes.")
    if not sizes:
        raise UserError("--sizes names no size: give shares of the face or widths, such as 5%,80mm.")
    return tuple(_panel(scenes, int(faces[0]), artworks[name], size, name, grid) for size in sizes for name in artworks)


def _panel(scenes: Scenes, face: int, artwork: Artwork, size: str, colour: str, grid: int) -> Panel:
    face_mm = scenes.faces.size_mm[face].cpu()
    size_mm = _size_mm(artwork, size, float(scenes.faces.area_mm2[face]))
    said = "x".join(f"{side:.0f}" for side in size_mm.tolist())
    if bool((size_mm > face_mm).any()):
        width, height = face_mm.tolist()
        raise UserError(f"A sticker of {said} mm is larger than the face ({width:g} x {height:g} mm): shrink --sizes.")
    cells = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).reshape(-1, 2)
    centres_mm = (cells.flip(1) + 0.5) / grid * face_mm
    places_mm = torch.cat([centres_mm - size_mm / 2, centres_mm + size_mm / 2], 1)
    fits = _share_on_face(scenes.faces.images[face, 3].cpu(), artwork.alpha[0, 0].cpu(), places_mm / face_mm.repeat(2))
    kept = fits >= ON_FACE
    if not bool(kept.any()):
        raise UserError(
            f"A sticker of {said} mm lies on the face at no place of the grid of {grid} x {grid}: give a smaller one "
            "in --sizes, or a finer --grid."
        )
    named = f"{said}mm" if size == OWN else size
    return Panel(named, colour, artwork, cells[kept], places_mm[kept].to(artwork.place_mm.device))


def _size_mm(artwork: Artwork, size: str, area_mm2: float) -> Float[Tensor, "2"]:
    """Width and height of the artwork's box at that size."""
    place_mm = artwork.place_mm[:1].cpu()
    own_mm = place_mm[0, 2:] - place_mm[0, :2]
    if size == OWN:
        return own_mm
    asked = _parse(size)
    if isinstance(asked, float):
        return own_mm * sqrt(asked / float(covered_share(artwork, area_mm2)[0]))
    return own_mm * (asked[0] / own_mm[0])


def _parse(size: str) -> float | tuple[float, float]:
    """A share of the face, or millimetres. UserError: neither, or several sides."""
    spec = parse_threat(f"patch:{size}")
    square = isinstance(spec, Patch) and (isinstance(spec.size, float) or spec.size[0] == spec.size[1])
    if not isinstance(spec, Patch) or not square or {":", "@"} & set(size):
        raise UserError(f"{size!r} is no size for --sizes: write a share of the face (5%) or one width (80mm).")
    return spec.size


def _share_on_face(
    face: Float[Tensor, "s s"], alpha: Float[Tensor, "h w"], places: Float[Tensor, "p 4"]
) -> Float[Tensor, " p"]:
    """How much of what alpha covers is opaque face, at each place (xyxy in shares of the face)."""
    height, width = (min(side, DEFAULT_RESOLUTION_PX) for side in alpha.shape)
    weight = adaptive_avg_pool2d(alpha[None, None], (height, width)).flatten()
    unit = pixel_grid(0, 0, height, width, device=face.device) / face.new_tensor([width, height])
    parts = []
    for some in places.split(_PLACES):
        points = some[:, None, :2] + unit * (some[:, None, 2:] - some[:, None, :2])
        parts.append(grid_sample(face[None, None], (2 * points - 1)[None], align_corners=False)[0, 0])
    return torch.cat(parts) @ weight / weight.sum()


def try_all(
    held_out: HeldOut, panel: Panel, objective: Objective, *, report: Callable[[int], None] = lambda photographs: None
) -> Tried:
    """Every candidate of the panel on every view. report: how many more photographs were judged."""
    won, loss = [], []
    with frozen(held_out.target.module):
        for row in range(len(panel)):
            (logits,) = held_out.answers(panel.candidate(row))
            won.append(objective.success(logits, held_out.truth))
            loss.append(objective.loss(logits, held_out.truth))
            report(len(held_out))
    return Tried(panel, torch.stack(won), torch.stack(loss))


def correct_views(held_out: HeldOut) -> Bool[Tensor, " n"]:
    """Views that the target answers correctly without a sticker: the only ones that count."""
    with frozen(held_out.target.module):
        (clean,) = held_out.answers(None)
    return clean.argmax(1) == held_out.truth


def seconds_per_photograph(held_out: HeldOut, panels: Sequence[Panel], objective: Objective) -> float:
    """Measured on the middle place of every panel, after one that warms up."""
    middle = [panel.only(len(panel) // 2) for panel in panels]
    try_all(held_out, middle[0], objective)
    start = time.monotonic()
    for panel in middle:
        try_all(held_out, panel, objective)
    return (time.monotonic() - start) / (len(middle) * len(held_out))


def best_of(tried: Sequence[Tried], correct: Bool[Tensor, " n"]) -> tuple[Tried, int]:
    """The candidate that wins most of the counted views; among equals, the one of least loss there."""
    ranked = [
        (int(wins), -float(loss), one, row)
        for one in tried
        for row, (wins, loss) in enumerate(zip(one.won[:, correct].sum(1), one.loss[:, correct].sum(1), strict=True))
    ]
    _, _, one, row = max(ranked, key=lambda entry: entry[:2])
    return one, row


def clusters(held_out: HeldOut) -> list[str]:
    """What the views share: each staged view stands alone, photographs share their sign."""
    if held_out.scenes.staged:
        return [str(view) for view in range(len(held_out))]
    return [held_out.scenes.groups[row] for row in held_out.scene.tolist()]


def rate_of(won: Bool[Tensor, " n"], correct: Bool[Tensor, " n"], groups: Sequence[str], *, seed: int) -> Rate:
    """Success among counted views: Wilson where every view stands alone, else a cluster bootstrap."""
    kept = [group for group, counts in zip(groups, correct.tolist(), strict=True) if counts]
    if len(set(groups)) == len(groups):
        return wilson(int(won[correct].sum()), len(kept))
    return cluster_rate(won[correct].cpu(), kept, seed=seed)


def mean_rate(tried: Tried, correct: Bool[Tensor, " n"], groups: Sequence[str], *, seed: int) -> Rate:
    """Success over all places of a panel: k of (places · counted views), which share their view or sign."""
    kept = [group for group, counts in zip(groups, correct.tolist(), strict=True) if counts]
    return cluster_rate(tried.won[:, correct].flatten().cpu(), kept * len(tried.panel), seed=seed)


def best_less_mean(
    tried: Tried, row: int, correct: Bool[Tensor, " n"], groups: Sequence[str], *, seed: int
) -> Difference:
    """d_v = [place `row` wins view v] − (share of all places that win it), averaged over the counted views."""
    share = tried.won.double().mean(0)
    values = (tried.won[row].double() - share)[correct].cpu().numpy()
    return paired_difference(
        values, [g for g, counts in zip(groups, correct.tolist(), strict=True) if counts], seed=seed
    )


def paired_difference(values: Float[np.ndarray, " n"], groups: Sequence[str], *, seed: int) -> Difference:
    """The mean of paired differences, with an interval that knows the groups.

    The union of two intervals: percentiles of the mean over groups drawn with replacement (Efron 1979), and Student's
    over groups, mean ± t · √(g/(g−1) · Σ(Σd − mean·n_g)²) / n, because the bootstrap alone is short with few groups.
    Where all groups agree, z²/(g + z²) of them (Wilson's bound) may yet differ by as much as there is.
    """
    if not len(values):
        return Difference(None, 0, None, None)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    n_g = np.bincount(group).astype(float)
    sum_g = np.bincount(group, weights=values)
    count, n, mean = len(n_g), len(values), float(values.mean())
    if count == 1:
        return Difference(mean, n, -1.0, 1.0)
    spread = sqrt(count / (count - 1) * float(((sum_g - mean * n_g) ** 2).sum())) / n
    if spread < _AGREED:
        unseen = Z**2 / (count + Z**2)
        return Difference(mean, n, mean - unseen * (1 + mean), mean + unseen * (1 - mean))
    low, high = bootstrap_interval(sum_g, n_g, seed, _RESAMPLES)
    half = student(count - 1) * spread
    return Difference(mean, n, max(-1.0, min(low, mean - half)), min(1.0, max(high, mean + half)))
