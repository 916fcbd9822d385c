"""What one photograph says about its own light, blur and the place of its artwork.

With the face's reflectance F, the artwork's coverage c and monomials m (transforms/print.py) drawn into the plane of
the photograph, K the blur, and all light linear:

    photograph = (1 + s · p) · (g · K[(1 − c) F + R m] + b)        p: px from the crop's middle, in shares of the crop

g, b and s are fitted where the face shows and no artwork lies, so all of it is relative to the face as drawn: a sign
paler than its drawing looks brighter lit. K is the one that leaves least there. The artwork's shift is the one that
leaves least on it when R is free. Nothing else can be told apart in one photograph.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physadv.scenes import Scenes
from physadv.threats import Artwork
from physadv.transforms.colour import LUMINANCE, to_linear
from physadv.transforms.optics import blur_matrices, separable
from physadv.transforms.print import MONOMIALS, Ink, monomials
from physadv.transforms.texture import frame_points
from physadv.transforms.warp import DRAWN, level_for, pixel_grid, project, pyramid, sample_pyramid

SIGMAS_PX = (0.0, 0.3, 0.45, 0.6, 0.8, 1.0, 1.25, 1.5, 1.8, 2.2, 2.7, 3.5, 5.0)  # of the crop
SHARPENED_PX = (-1.6, -1.2, -0.9, -0.65, -0.4)  # of the photograph: what `Measured.blur_px` says of sharpening
FLAT = 1.1  # a blur is believed where the worst of them leaves that many times as much as the best,
FAINT = 0.01  # and more than it by that share of white,
OTHERWISE = 0.06  # and the best leaves less than that share of white: more is noise, or letters drawn in another way
FEWEST_PX = 40  # of free face
EDGE_PX = 1.5  # what lies nearer to the outline or to the artwork is neither
SHARE = 0.02  # of a px that may be something else
CLIPPED = (2 / 255, 253 / 255)
ROUNDS = 6
STIFF_GAIN, STIFF_BIAS = 2e-3, 2e-3  # ridges: a channel's gain toward that of all, its bias toward none
BIAS, GAIN, SLOPE = (-0.05, 0.5), (0.005, 8.0), 1.0
FINEST = 6  # levels of an artwork's pyramid: 64 times finer than the crop is fine enough
REACH_MM, REACH_PX, STEPS = 20.0, 3.0, 7  # of the search for the artwork's place, and steps across
WORTH_PX = 200.0  # independent px that an artwork's photograph counts for: neighbours share their errors
STIFF_PRINT = 0.02  # (error of a px / spread of printers)²: pulls what the artwork's colours do not tell to the world's


@dataclass(frozen=True)
class Light:
    """linear photograph = (1 + slope · p) · (gain · linear reflectance + bias)."""

    gain: Float[Tensor, "3"]
    bias: Float[Tensor, "3"]
    slope: Float[Tensor, "2"]

    @property
    def stops(self) -> float:
        """log2 of the luminance that white has in the photograph: 0 is the end of the scale."""
        return float(((self.gain + self.bias) @ self.gain.new_tensor(LUMINANCE)).clamp(min=GAIN[0]).log2())


@dataclass(frozen=True)
class Print:
    """Normal equations of R over the artwork's px, in reflectance: Σ m mᵀ and Σ m yᵀ. They add up over photographs."""

    square: Float[Tensor, "11 11"]
    right: Float[Tensor, "11 3"]

    def __add__(self, other: "Print") -> "Print":
        return Print(self.square + other.square, self.right + other.right)

    def response(self, prior: Float[Tensor, "3 11"]) -> Float[Tensor, "3 11"]:
        """argmin |y − R m|² + λ |R − prior|²."""
        ridge = STIFF_PRINT * torch.eye(MONOMIALS, dtype=torch.float64)
        solved = torch.linalg.solve(self.square + ridge, self.right + ridge @ prior.double().T)
        return solved.T.float()


@dataclass(frozen=True)
class Measured:
    """blur_px: sigma in px of the photograph; None where the face has no edge that shows it. shift_mm: of the artwork.

    blur_px < 0: the photograph is sharper than a picture of its px, by `Sharpen` of one px and the amount blur_px²,
    whose kernel has the variance −blur_px². ink: None without an artwork, or where none of it shows.
    """

    light: Light
    blur_px: float | None
    shift_mm: tuple[float, float] | None
    ink: Print | None


@dataclass(frozen=True)
class Sight:
    """A crop round a sign and where in it the sign is. scale: px of the crop per px of the photograph."""

    linear: Float[Tensor, "3 h w"]
    usable: Bool[Tensor, "h w"]
    to_px: Float[Tensor, "1 3 3"]
    scale: float
    px_per_mm: float

    @classmethod
    def of(cls, crop: Float[Tensor, "3 h w"], to_px: Float[np.ndarray, "3 3"], scale: float, scenes: Scenes) -> "Sight":
        """crop: sRGB. to_px: surface mm -> px of the crop. What is clipped in it counts for nothing."""
        matrix = torch.from_numpy(np.asarray(to_px)).float()[None]
        crop = crop.cpu()
        outline = project(matrix, scenes.faces.outline_mm[scenes.face[:1]].cpu())[0]
        wide_px = float((outline.amax(0) - outline.amin(0)).max())
        usable = ((crop > CLIPPED[0]).any(0)) & ((crop < CLIPPED[1]).all(0))
        wide_mm = float(scenes.faces.size_mm[scenes.face[0]].max())
        return cls(to_linear(crop), usable, matrix, scale, wide_px / wide_mm)

    @property
    def size_px(self) -> int:
        return self.linear.shape[-1]

    def points_mm(self) -> Float[Tensor, "1 hw 2"]:
        """Where on the surface the crop's px are."""
        grid = pixel_grid(0, 0, self.size_px, self.size_px, device=self.to_px.device)
        return project(self.to_px.inverse(), grid)

    def blurred(self, layers: Float[Tensor, "n c h w"], sigma_px: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """By that sigma (px of the crop), and by the photograph's px where they are wider, as the world does it.

        Below 0, sharpened: as `Measured.blur_px`, in px of the crop.
        """
        wider = max((self.scale**2 - 1) / 12, 0.0)
        variance = sigma_px.clamp(min=0) ** 2 + wider
        spread = torch.stack([variance, variance, 0 * variance, 0 * variance], 1)
        amount = (sigma_px.clamp(max=0) / self.scale) ** 2
        halo = torch.stack([amount, torch.full_like(amount, self.scale**2)], 1)
        return separable(layers, *blur_matrices(spread, self.size_px, self.size_px, halo=halo))


def measure(
    sight: Sight,
    scenes: Scenes,
    artwork: Artwork | None,
    *,
    paper_mm: tuple[float, ...] | None = None,
    place: bool = True,
) -> Measured | None:
    """paper_mm: box of what else hides the face (the sheet that the artwork hangs on). None: too little face shows.

    place: whether the artwork is looked for, too; without, neither its shift nor its print is known.
    """
    face, shown = _face(sight, scenes)
    cover = torch.zeros_like(shown) if artwork is None else _sampled(sight, artwork, [artwork.alpha[:1].cpu()])[0, 0]
    hidden = _box(sight, paper_mm) if paper_mm else torch.zeros_like(shown)
    edge = sight.blurred(torch.stack([shown, cover, hidden])[None], torch.tensor([EDGE_PX]))[0]
    free = sight.usable & (edge[0] > 1 - SHARE) & (edge[1] < SHARE) & (edge[2] < SHARE)
    if int(free.sum()) < FEWEST_PX:
        return None
    sigma, light = _sharpness(sight, (1 - cover) * face, (1 - cover) * shown, free)
    chosen = torch.tensor([sigma if sigma is not None else 0.5])
    placed = None if artwork is None or not place else _placed(sight, artwork, face, light, chosen)
    blur_px = None if sigma is None else sigma / sight.scale
    return Measured(light, blur_px, None if placed is None else placed[0], None if placed is None else placed[1])


def sign_in(sight: Sight, scenes: Scenes) -> Bool[Tensor, "h w"]:
    """The px of the crop that show nothing but the sign's face and what hangs on it."""
    return _face(sight, scenes)[1] > 1 - SHARE


def typical_ink(ink: Ink) -> Float[Tensor, "3 11"]:
    """The middle of a world's printers: where a measured one starts from."""
    return ink.sample(torch.full((1, type(ink).dims), 0.5))["response"][0]


def _face(sight: Sight, scenes: Scenes) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]]:
    """Linear reflectance where the face is, and its coverage."""
    row, side = scenes.face[:1].cpu(), sight.size_px
    size_mm = scenes.faces.size_mm[row.to(scenes.faces.size_mm.device)].cpu()
    texels = scenes.faces.images.shape[-1] / size_mm.amax() / sight.px_per_mm * max(sight.scale, 1.0)
    levels = [level[row.to(level.device)].cpu() for level in scenes.faces.light]
    seen = sample_pyramid(
        levels, sight.points_mm() / size_mm[:, None], level_for(texels[None], sharp=DRAWN), height=side, width=side
    )
    return seen[0, :3], seen[0, 3]


def _sampled(
    sight: Sight, artwork: Artwork, layers: list[Tensor], shift_mm: Float[Tensor, "n 2"] | None = None
) -> Float[Tensor, "n c h w"]:
    """Layers of the artwork (a pyramid, or its finest level) with the artwork moved by each of the shifts."""
    shift_mm = torch.zeros(1, 2) if shift_mm is None else shift_mm
    place, side = artwork.place_mm[:1].cpu(), sight.size_px
    size_mm = place[:, 2:] - place[:, :2]
    texels = artwork.rgb.shape[-1] / size_mm[0, 0] / sight.px_per_mm * max(sight.scale, 1.0)
    level = level_for(texels[None]).expand(len(shift_mm))
    levels = pyramid(layers[0], levels=int(level.max())) if len(layers) == 1 else layers
    unit = (sight.points_mm() - shift_mm[:, None] - place[:, None, :2]) / size_mm[:, None]
    return sample_pyramid(levels, unit, level, height=side, width=side)


def _box(sight: Sight, box_mm: tuple[float, ...]) -> Float[Tensor, "h w"]:
    x1, y1, x2, y2 = box_mm
    at = sight.points_mm()[0]
    inside = (at[:, 0] > x1) & (at[:, 0] < x2) & (at[:, 1] > y1) & (at[:, 1] < y2)
    return inside.float().reshape(sight.size_px, sight.size_px)


def _sharpness(
    sight: Sight, face: Float[Tensor, "3 h w"], known: Float[Tensor, "h w"], free: Bool[Tensor, "h w"]
) -> tuple[float | None, Light]:
    """The blur in px of the crop that leaves least, and the light with it; None: all leave about as much, or much.

    known: the share of a px that is face, by which `face` is multiplied; the blur takes nothing from elsewhere.
    """
    sigmas = torch.tensor([*(sight.scale * one for one in SHARPENED_PX), *SIGMAS_PX])
    stack = sight.blurred(torch.cat([face, known[None]]).expand(len(sigmas), -1, -1, -1), sigmas)
    stack = stack[:, :3] / stack[:, 3:].clamp_min(1e-3)
    fits = [_fit(one[:, free], sight.linear[:, free], _places(sight)[free]) for one in stack]
    left = torch.tensor([rest for _, rest in fits])
    best = int(left.argmin())
    white = float(fits[best][0].gain.mean())
    told = left.max() >= FLAT * left[best] and left.max() - left[best] >= (FAINT * white) ** 2
    if not told or left[best] > (OTHERWISE * white) ** 2:
        return None, fits[best][0]
    return _lowest(sigmas, left, best), fits[best][0]


def _lowest(places: Float[Tensor, " n"], values: Float[Tensor, " n"], best: int) -> float:
    """Where the parabola through the lowest value and its neighbours is lowest; at an end, the end."""
    if best in (0, len(places) - 1):
        return float(places[best])
    (x0, x1, x2), (y0, y1, y2) = (some[best - 1 : best + 2].tolist() for some in (places, values))
    left, right = (x1 - x0) * (y1 - y2), (x2 - x1) * (y1 - y0)
    if left + right >= 0:
        return x1
    return x1 - 0.5 * ((x1 - x0) * left - (x2 - x1) * right) / (left + right)


def _places(sight: Sight) -> Float[Tensor, "h w 2"]:
    return frame_points(sight.size_px, sight.size_px, device=torch.device("cpu"))[0] - 0.5


def _fit(drawn: Float[Tensor, "3 n"], seen: Float[Tensor, "3 n"], place: Float[Tensor, "n 2"]) -> tuple[Light, float]:
    """Light, and the mean of what it leaves; reweighted squares (Geman & McClure), so that dirt and letters drawn
    otherwise lose their say."""
    weight, slope = torch.ones_like(drawn), torch.zeros(2)
    for _ in range(ROUNDS):
        shade = 1 + place @ slope
        shared, _ = _line(drawn.reshape(1, -1), (seen / shade).reshape(1, -1), weight.reshape(1, -1), None)
        gain, bias = _line(drawn, seen / shade, weight, shared)
        flat = gain[:, None] * drawn + bias[:, None]
        slope = _slope(flat, seen - flat, weight, place)
        left = (seen - flat * (1 + place @ slope)).abs()
        scale = 2 * left.mean() + 1e-4
        weight = 1 / (1 + (left / scale) ** 2) ** 2
    robust = (left**2 / (left**2 + scale**2)).mean() * scale**2
    return Light(gain, bias, slope), float(robust)


def _line(
    x: Float[Tensor, "c n"], y: Float[Tensor, "c n"], weight: Float[Tensor, "c n"], toward: Float[Tensor, "1"] | None
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Weighted ridge regression y = gain · x + bias, held in the physical range."""
    stiff = 0.0 if toward is None else STIFF_GAIN
    total = weight.sum(1).clamp_min(1e-6)
    mean_x, mean_y, xx, xy = ((weight * v).sum(1) / total for v in (x, y, x * x, x * y))
    if toward is not None:
        xx, xy = xx + stiff, xy + stiff * toward
    bias = ((mean_y * xx - mean_x * xy) / ((1 + STIFF_BIAS) * xx - mean_x**2).clamp_min(1e-6)).clamp(*BIAS)
    return ((xy - bias * mean_x) / xx.clamp_min(1e-6)).clamp(*GAIN), bias


def _slope(
    flat: Float[Tensor, "3 n"], rest: Float[Tensor, "3 n"], weight: Float[Tensor, "3 n"], place: Float[Tensor, "n 2"]
) -> Float[Tensor, "2"]:
    """argmin |rest − flat · (s · p)|²: how the light falls off over the sign."""
    power = (weight * flat**2).sum(0)
    square = (place * power[:, None]).T @ place + 1e-6 * torch.eye(2)
    return torch.linalg.solve(square, place.T @ (weight * flat * rest).sum(0)).clamp(-SLOPE, SLOPE)


def _placed(
    sight: Sight, artwork: Artwork, face: Float[Tensor, "3 h w"], light: Light, sigma_px: Float[Tensor, "1"]
) -> tuple[tuple[float, float], Print] | None:
    """The artwork's shift in mm, coarse then fine, and its print there. None: too little of it shows."""
    centre, reach = torch.zeros(2), max(REACH_MM, REACH_PX / sight.px_per_mm)
    layers = pyramid(monomials(artwork.rgb[:1].cpu(), artwork.alpha[:1].cpu()), levels=FINEST)
    for _ in range(2):
        step = torch.linspace(-reach, reach, STEPS)
        shifts = centre + torch.cartesian_prod(step, step)
        terms = _sampled(sight, artwork, layers, shifts)
        prints, left = _prints(sight, terms, face, light, sigma_px)
        if not prints:
            return None
        best = int(left.argmin())
        centre, found, reach = shifts[best], prints[best], 2 * reach / (STEPS - 1)
    row, column, left = best // STEPS, best % STEPS, left.reshape(STEPS, STEPS)
    shift = _lowest(step + (centre - step[row])[0], left[:, column], row), float(centre[1])
    shift = shift[0], _lowest(step + (centre - step[column])[1], left[row], column)
    return shift, found


def _prints(
    sight: Sight,
    terms: Float[Tensor, "k 11 h w"],
    face: Float[Tensor, "3 h w"],
    light: Light,
    sigma_px: Float[Tensor, "1"],
) -> tuple[list[Print], Float[Tensor, " k"]]:
    """For each shift the normal equations on the px that any shift covers, and what the best R leaves there."""
    rest = (1 - terms[:, :1]) * face
    stack = sight.blurred(torch.cat([terms, rest], 1), sigma_px.expand(len(terms)))
    where = sight.usable & (stack[:, 0] > 0.5).any(0)
    if int(where.sum()) < FEWEST_PX // 4:
        return [], torch.zeros(0)
    shade = 1 + _places(sight) @ light.slope
    seen = (sight.linear / shade - light.bias[:, None, None]) / light.gain[:, None, None]
    x, y = stack[:, :MONOMIALS, where].double(), (seen - stack[:, MONOMIALS:])[:, :, where].double()
    share = min(WORTH_PX / x.shape[2], 1.0)
    square, right = share * x @ x.mT, share * x @ y.mT
    ridge = STIFF_PRINT * torch.eye(MONOMIALS, dtype=torch.float64)
    solved = torch.linalg.solve(square + ridge, right)
    left = ((y - solved.mT @ x) ** 2).mean((1, 2))
    return [Print(one, other) for one, other in zip(square, right, strict=True)], left
