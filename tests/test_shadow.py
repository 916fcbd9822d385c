"""shadow: the share of the light that is left, in every world, and nothing beside the face."""

from dataclasses import replace

import pytest
import torch

from physadv.scenes import Scenes, load_scenes
from physadv.targets.base import Frame
from physadv.threats import load_threat
from physadv.threats.base import Artwork, load_artwork
from physadv.threats.shadow import CastShadow
from physadv.transforms.colour import to_linear
from physadv.transforms.world import World, load_world

FRAME, LIGHT = Frame(96, 0.2), 0.43
WORLDS = {
    "digital": load_world("digital"),
    "printed": load_world("drive-by").without("light", "camera"),  # ink, mount and pose, with no light of its own
}


def signs() -> Scenes:
    """Stop signs: their corners are cut, so that a face's box holds more than the face."""
    return load_scenes("staged:stop").take(torch.zeros(6, dtype=torch.long))


def cast(scenes: Scenes, *, whole: bool) -> tuple[CastShadow, Artwork]:
    """One shadow on each; whole: over all of the face's box, were it not for the face."""
    threat = load_threat(f"shadow:{LIGHT}", scenes, seed=3, resolution_px=64)
    assert isinstance(threat, CastShadow)
    if whole:
        threat = replace(threat, alpha=threat.opacity * threat.opaque[threat.face])
    return threat, threat.artwork(torch.zeros(len(scenes), 3, *threat.size_px))


def pair(world: World, artwork: Artwork, scenes: Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """The same views in linear light, without and with it."""
    shots = world.prepare(scenes, world.draw(range(len(scenes)), seed=1), frame=FRAME)
    clean, dark = (to_linear(shots.photograph(one)) for one in (None, artwork))
    return clean, dark


@pytest.mark.parametrize("name", WORLDS)
def test_the_share_of_the_light_that_is_left_is_what_the_name_says(name: str) -> None:
    scenes = signs()
    clean, dark = pair(WORLDS[name], cast(scenes, whole=True)[1], scenes)
    for before, after in zip(clean, dark, strict=True):
        share = (after / before)[before > 0.2]
        changed = share[share < 0.995]
        assert changed.numel() > 50
        assert changed.median() == pytest.approx(LIGHT, abs=0.01)
        assert changed.min() > LIGHT - 0.03


@pytest.mark.parametrize("name", WORLDS)
def test_it_lies_on_the_face_alone(name: str) -> None:
    """On a white ground, what is darker with it shows no more than the face."""
    scenes = signs()
    white = replace(scenes, backgrounds=torch.ones_like(scenes.backgrounds[:1]))
    bare = replace(
        white, faces=replace(white.faces, images=white.faces.images * torch.tensor([0, 0, 0, 1.0])[:, None, None])
    )
    clean, dark = pair(WORLDS[name], cast(bare, whole=True)[1], bare)
    beside = torch.nn.functional.avg_pool2d(clean.mean(1, keepdim=True), 5, 1, 2) > 0.999
    assert beside.any()
    assert (clean - dark).abs().amax(1, keepdim=True)[beside].max() < 1e-3


def test_every_shape_is_dark_on_the_opaque_face_only() -> None:
    scenes = signs()
    threat, _ = cast(scenes, whole=False)
    for shape in threat.candidates(20, seed=0):
        assert (shape.alpha <= threat.opacity * threat.opaque[threat.face] + 1e-6).all()
    assert float(threat.opaque[threat.face][0, 0, 0, 0]) == 0


def test_it_is_no_print(tmp_path) -> None:
    _, artwork = cast(signs(), whole=False)
    artwork.quantised().save(tmp_path / "dark")
    loaded = load_artwork(tmp_path / "dark")
    assert loaded.cast
