"""Simulated drives towards the sign, for `attack` and `evaluate` on a detector."""

from typing import Any

from torch import Tensor

from physadv.approach import Approaches, approaches
from physadv.config import SearchOptions
from physadv.files import to_pil
from physadv.question import Target
from physadv.report.detection import Film, Frame, film, film_strip
from physadv.scenes import Scenes, load_scenes
from physadv.scenes.faces import has_art
from physadv.targets import Detector
from physadv.threats import Artwork
from physadv.threats.printed import faces_in_use
from physadv.transforms.world import World


def drive_towards(
    options: SearchOptions, target: Target, scenes: Scenes, artwork: Artwork | None, world: World
) -> Approaches | None:
    """The drives; None without a detector, a printed artwork or a sign that is drawn."""
    if not isinstance(target, Detector) or artwork is None or not artwork.printed or not options.approaches:
        return None
    staged = _staged(options, target, scenes)
    if staged is None or options.goal.startswith("create"):
        return None
    count, speed_kmh = options.approaches, options.speed_kmh
    return approaches(target, staged, artwork, world=world, count=count, speed_kmh=speed_kmh, seed=options.seed)


def _staged(options: SearchOptions, target: Detector, scenes: Scenes) -> Scenes | None:
    """The scenes themselves, or the drawn face of the signs in the photographs before backgrounds."""
    if scenes.staged:
        return scenes
    name = scenes.faces.names[int(faces_in_use(scenes)[0])]
    if not has_art(name):
        return None
    size_px = target.frame.size_px
    backgrounds = getattr(options, "judge_backgrounds", None) or options.backgrounds
    how: dict[str, Any] = {"backgrounds": backgrounds, "street_px": size_px, "face_mm": options.face_mm}
    return load_scenes(f"staged:{name}", **how).to(options.device)


def films(drives: Approaches | None) -> list[Film]:
    """The drives whose photographs were kept, as strips."""
    if drives is None:
        return []

    def strip(photographs: Tensor, found: Tensor) -> list[Frame]:
        pictures = [to_pil(one.float() / 255) for one in photographs]
        return film_strip(pictures, drives.distances_m, found.tolist(), braking_m=drives.braking_m)

    sides = zip(drives.films, drives.clean, drives.attacked, strict=False)
    return [
        film(f"Drive {row + 1}", strip(shown[0], clean), strip(shown[1], attacked))
        for row, (shown, clean, attacked) in enumerate(sides)
    ]
