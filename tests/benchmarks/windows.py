"""What a sign costs: each artwork in a window of its own, against one canvas per box, as the usual tools do it.

    python tests/benchmarks/windows.py [--rounds 7] [--sides 160 320 640]

Forward and backward of compositing alone, no model; CPU time of one thread, the two interleaved, median of the rounds.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from physadv.threats.base import Artwork
from physadv.transforms.mount import Bend
from physadv.transforms.paste import Signs, paste
from physadv.transforms.print import monomials
from physadv.transforms.warp import pixel_grid, project

IMAGES, SIDE_PX, BOXES = 8, 320, (1, 8, 24)
SIGN_PX, SIGN_MM, TEXELS = 24.0, 600.0, 32
Applier = Callable[[Artwork, "Case"], Float[Tensor, "n 3 h w"]]


@dataclass(frozen=True)
class Case:
    """Photographs with as many signs in each."""

    linear: Float[Tensor, "n 3 h w"]
    shade: Float[Tensor, "n 1 h w"]
    signs: Signs


def case(boxes: int, *, side_px: int = SIDE_PX, images: int = IMAGES, sign_px: float = SIGN_PX) -> Case:
    """Signs of one size, anywhere in the photographs, slightly turned."""
    generator = torch.Generator().manual_seed(boxes)
    count, scale = images * boxes, sign_px / SIGN_MM
    corner = torch.rand(count, 2, generator=generator) * (side_px - 1.2 * sign_px)
    lean = 0.1 * scale * (torch.rand(count, generator=generator) - 0.5)
    to_px = torch.zeros(count, 3, 3)
    to_px[:, 0, 0] = to_px[:, 1, 1] = scale
    to_px[:, 0, 1], to_px[:, 1, 0], to_px[:, :2, 2], to_px[:, 2, 2] = lean, -lean, corner, 1
    place = torch.tensor([[0.0, 0.0, SIGN_MM, SIGN_MM]])
    artwork = Artwork(torch.rand(1, 3, TEXELS, TEXELS, generator=generator), torch.ones(1, 1, TEXELS, TEXELS), place)
    signs = Signs(
        artwork=artwork,
        of=torch.arange(images).repeat_interleave(boxes),
        to_px=to_px,
        colour=torch.eye(3, 11).roll(1, 1).repeat(count, 1, 1),
        place_mm=place.expand(count, 4),
        bend=Bend(),
        bent={},
        texels_per_px=torch.full((count,), TEXELS / sign_px),
        shared=False,
    )
    linear = torch.rand(images, 3, side_px, side_px, generator=generator)
    return Case(linear, torch.ones(images, 1, side_px, side_px), signs)


def windows(artwork: Artwork, given: Case) -> Float[Tensor, "n 3 h w"]:
    """physadv's."""
    signs = Signs(**{**vars(given.signs), "artwork": artwork})
    return paste(given.linear, signs, given.linear, given.shade)


def canvases(artwork: Artwork, given: Case) -> Float[Tensor, "n 3 h w"]:
    """One box after the other, each warped onto a canvas as large as the photograph."""
    terms, signs = monomials(artwork.rgb, artwork.alpha), given.signs
    size = given.linear.shape[-1]
    everywhere = pixel_grid(0, 0, size, size, device=given.linear.device)
    images = list(given.linear.unbind(0))
    for sign, image in enumerate(signs.of.tolist()):
        low, high = signs.place_mm[sign, :2], signs.place_mm[sign, 2:]
        unit = (project(signs.to_px[sign : sign + 1].inverse(), everywhere) - low) / (high - low)
        picture = torch.cat([torch.einsum("kf,fyx->kyx", signs.colour[sign], terms[0]), terms[0, :1].detach()])[None]
        seen = grid_sample(picture, (2 * unit - 1).reshape(1, size, size, 2), align_corners=False)[0]
        images[image] = images[image] * (1 - seen[3:]) + given.shade[image] * seen[:3]
    return torch.stack(images)


def seconds(apply: Applier, given: Case) -> float:
    """CPU time of one forward and backward, from a gradient as a model hands it back."""
    pull = torch.ones_like(given.linear)
    theta = given.signs.artwork.rgb.clone().requires_grad_()
    artwork = Artwork(theta, given.signs.artwork.alpha, given.signs.artwork.place_mm)
    start = time.process_time()
    torch.autograd.grad(apply(artwork, given), theta, pull)
    return time.process_time() - start


def compared(given: Case, *, rounds: int) -> tuple[float, float]:
    """Medians of ours and of the canvases', after one of each that does not count."""
    spent: dict[Applier, list[float]] = {windows: [], canvases: []}
    for round_ in range(rounds + 1):
        for apply, times in spent.items():
            taken = seconds(apply, given)
            if round_:
                times.append(taken)
    return median(spent[windows]), median(spent[canvases])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[SIDE_PX])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{IMAGES} photographs, signs of {SIGN_PX:g} px, forward and backward, CPU ms, median of {options.rounds}\n")
    print("| photograph, px | signs in each | windows | a canvas per box | ratio |\n|---|---|---|---|---|")
    for side_px in options.sides:
        for boxes in BOXES:
            ours, theirs = compared(case(boxes, side_px=side_px), rounds=options.rounds)
            print(f"| {side_px} | {boxes} | {1e3 * ours:.1f} | {1e3 * theirs:.1f} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
