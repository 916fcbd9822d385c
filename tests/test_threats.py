"""S: projections, masks, places, and the artwork on disk."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from physadv.errors import UserError
from physadv.scenes import load_scenes
from physadv.scenes.base import Faces, Scenes
from physadv.threats.base import Artwork, covered_share, load_artwork
from physadv.threats.catalogue import list_threats, parse_threat, resolve_threat
from physadv.threats.masks import MASKS, built_in_mask
from physadv.threats.patch import RoamingPatch
from physadv.threats.sets import Box, FeasibleSet, L2Ball, LinfBall, Printable

SIDE = 128


def octagon(side: int = SIDE) -> torch.Tensor:
    x = (torch.arange(side) + 0.5) / side * 2 - 1
    return ((x[:, None].abs() + x[None].abs()) <= 2**0.5).float()


def disc(side: int = SIDE) -> torch.Tensor:
    x = (torch.arange(side) + 0.5) / side * 2 - 1
    return (torch.hypot(x[:, None], x[None]) <= 1).float()


def scenes(
    face: tuple[int, ...] = (0, 0), *, sizes_mm: tuple[float, ...] = (750.0, 600.0), tilt: float = 0.0
) -> Scenes:
    alphas = torch.stack([octagon(), disc()])
    colours = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    size_mm = torch.tensor(sizes_mm)[:, None].repeat(1, 2)
    faces = Faces(torch.cat([colours, alphas[:, None]], 1), size_mm, torch.zeros(2, 32, 2), ("stop", "no-entry"))
    count = len(face)
    surface = torch.tensor([[0.04, tilt, 1.0], [0.0, 0.05, -2.0], [0.0, 0.0, 1.0]]).repeat(count, 1, 1)
    return Scenes(
        images=torch.rand(count, 3, 32, 40, generator=torch.Generator().manual_seed(4)),
        surface=surface,
        faces=faces,
        face=torch.tensor(face),
        labels=torch.tensor(face),
        classes=("stop", "no-entry"),
        names=tuple(f"photo {row}" for row in range(count)),
        groups=tuple(f"track {row}" for row in range(count)),
        gain=torch.ones(count, 3),
        bias=torch.zeros(count, 3),
        native_px=torch.ones(count),
    )


def resolved(text: str, where: Scenes, **options: object):
    return resolve_threat(parse_threat(text, **options), where, resolution_px=64, seed=0)


def theta_of(threat, where: Scenes, *, per_scene: bool = False) -> torch.Tensor:
    return threat.init(where, generator=torch.Generator().manual_seed(1), per_scene=per_scene)


# ---- projections


BASE = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
SETS = [Box(), Printable(), LinfBall(BASE, 0.1), L2Ball(BASE, 0.7)]


@pytest.mark.parametrize("feasible", SETS, ids=lambda s: type(s).__name__)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.05, 4))
@settings(max_examples=15, deadline=None)
def test_projection_is_idempotent_and_the_nearest_feasible_point(feasible: FeasibleSet, seed: int, spread: float):
    generator = torch.Generator().manual_seed(seed)
    theta = 0.5 + spread * torch.randn(2, 3, 4, 5, generator=generator)
    near = feasible.project(theta)
    torch.testing.assert_close(feasible.project(near), near, rtol=0, atol=1e-6)
    # s is the projection on a convex set exactly if <theta − s, other − s> <= 0 for every feasible other
    tried = [feasible.sample(2, (4, 5), generator=generator) for _ in range(20)]
    tried += [feasible.project(near + 0.1 * torch.randn(2, 3, 4, 5, generator=generator)) for _ in range(20)]
    for other in tried:
        assert ((theta - near) * (other - near)).double().sum((1, 2, 3)).max() <= 1e-4 * spread


@pytest.mark.parametrize("feasible", SETS, ids=lambda s: type(s).__name__)
def test_samples_lie_in_the_set_and_differ(feasible: FeasibleSet):
    generator = torch.Generator().manual_seed(5)
    first, second = (feasible.sample(2, (4, 5), generator=generator) for _ in range(2))
    torch.testing.assert_close(feasible.project(first), first)
    assert not torch.equal(first, second)


def test_projections_respect_their_limits():
    far = 3 * torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    assert (LinfBall(BASE, 0.1).project(far) - BASE).abs().max() <= 0.1 + 1e-6
    assert (L2Ball(BASE, 0.7).project(far) - BASE).flatten(1).norm(dim=1).tolist() == pytest.approx(
        [0.7, 0.7], abs=1e-4
    )
    ink = Printable().project(far)
    assert ink.min() >= 33 / 255 - 1e-6
    assert ink.max() <= 222 / 255 + 1e-6
    assert (ink.amax(1) - ink.amin(1)).max() <= 160 / 255 + 1e-6


# ---- masks


@pytest.mark.parametrize("mask", sorted(MASKS))
def test_built_in_masks_cover_at_most_21_percent_of_a_stop_face(mask: str):
    where = scenes()
    threat = resolved(f"stickers:{mask}", where)
    share = covered_share(threat.artwork(theta_of(threat, where)), where.faces.area_mm2[:1])
    assert 0.05 < share.item() <= 0.21
    clipped = built_in_mask(mask)[::8, ::8] * octagon().numpy()
    assert share.item() == pytest.approx(clipped.sum() / octagon().sum().item(), abs=0.01)


def test_two_bars_have_the_layout_of_the_captured_sign(data):
    mask = np.asarray(Image.open(data / "captures" / "mask_bars.png")) > 127
    assert np.array_equal(built_in_mask("two-bars") > 0, mask)


def test_stickers_are_cropped_to_their_bounding_box():
    threat = resolved("stickers:two-bars", scenes())
    expected = torch.tensor([[180.0, 180, 820, 856]]) / 1024 * 750
    torch.testing.assert_close(threat.place_mm, expected)
    assert threat.size_px == (64, 61)
    assert threat.alpha[0, 0, 32].max() == 0
    assert threat.alpha[0, 0, 2].min() > 0.9999


@pytest.mark.parametrize("percent", [1, 4, 15])
@pytest.mark.parametrize("face", [0, 1])
def test_ring_covers_the_share_asked_for_along_the_outline(percent: int, face: int):
    where = scenes((face,))
    threat = resolved(f"ring:{percent}%", where)
    share = covered_share(threat.artwork(theta_of(threat, where)), where.faces.area_mm2[face : face + 1])
    assert share.item() * 100 == pytest.approx(percent, abs=0.3)
    assert threat.alpha[0, 0, 32, 32] == 0
    assert threat.alpha[0, 0, 32, 0] > 0.1


def test_file_mask_is_used_where_it_is_white_and_opaque(tmp_path):
    levels = np.zeros((100, 100, 4), np.uint8)
    levels[40:60, 20:80] = 255
    levels[:, :, :3] = 255  # white everywhere, but transparent outside the sticker
    Image.fromarray(levels).save(tmp_path / "mask.png")
    threat = resolved("stickers", scenes(), mask=tmp_path / "mask.png")
    torch.testing.assert_close(threat.place_mm, torch.tensor([[150.0, 300, 600, 450]]))
    assert threat.alpha.min() > 0.9999


@pytest.mark.parametrize(("shape", "level", "sentence"), [((50, 100), 255, "of another size"), ((64, 64), 0, "empty")])
def test_unfit_file_masks_are_refused(tmp_path, shape: tuple[int, int], level: int, sentence: str):
    Image.fromarray(np.full(shape, level, np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=sentence):
        resolved("stickers", scenes(), mask=tmp_path / "mask.png")


def test_a_mask_beside_the_opaque_face_is_refused(tmp_path):
    levels = np.zeros((64, 64), np.uint8)
    levels[:4, :4] = 255
    Image.fromarray(levels).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="beside the opaque face"):
        resolved("stickers", scenes(), mask=tmp_path / "mask.png")


# ---- places


@pytest.mark.parametrize(
    ("text", "place_mm"),
    [
        ("patch:80mm", [335, 335, 415, 415]),
        ("patch:60x40mm", [345, 355, 405, 395]),
        ("patch:80mm@300,450", [260, 410, 340, 490]),
        ("patch:80mm:circle@300,450", [260, 410, 340, 490]),
    ],
)
def test_patch_lies_where_its_millimetres_say(text: str, place_mm: list[float]):
    threat = resolved(text, scenes())
    torch.testing.assert_close(threat.place_mm, torch.tensor([place_mm], dtype=torch.float32))
    assert threat.name == text


@pytest.mark.parametrize("text", ["patch:10%", "patch:10%:circle"])
def test_patch_of_a_share_covers_it_on_every_face(text: str):
    where = scenes((0, 1, 0))
    threat = resolved(text, where)
    share = covered_share(threat.artwork(theta_of(threat, where)), where.faces.area_mm2[where.face])
    torch.testing.assert_close(share, torch.full((3,), 0.1), atol=1e-3, rtol=0)
    assert ((threat.alpha == 0).any()).item() == ("circle" in text)


def test_random_places_stay_on_the_face_and_reach_its_edges():
    where = scenes((0, 1) * 200)
    threat = resolved("patch:80mm@random", where)
    assert isinstance(threat, RoamingPatch)
    u = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    limit = where.faces.size_mm[where.face]
    for places in (threat.place_mm, threat.places(u, where, torch.arange(400))):
        torch.testing.assert_close(places[:, 2:] - places[:, :2], torch.full((400, 2), 80.0))
        assert (places[:, :2] >= 0).all()
        assert (places[:, 2:] <= limit + 1e-3).all()
        centre = (places[:, :2] / (limit - 80)).mean(0)
        torch.testing.assert_close(centre, torch.full((2,), 0.5), atol=0.06, rtol=0)


def test_random_places_of_a_triangle_are_not_in_the_air():
    where = load_scenes("staged:yield")
    threat = resolved("patch:5%@random", where)
    u = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    places = threat.places(u, where, torch.zeros(300, dtype=torch.long))
    alpha, size_mm = where.faces.images[0, 3], where.faces.size_mm[0]
    edges = (places / size_mm.repeat(2) * len(alpha)).round().long()
    shares = torch.stack([alpha[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in edges.tolist()])
    assert shares.min() > 0.99
    assert len(places.unique(dim=0)) > 20


def test_fixed_random_places_depend_on_the_seed_alone():
    where, spec = scenes(), parse_threat("patch:80mm@random")
    places = [resolve_threat(spec, where, seed=seed).place_mm for seed in (1, 1, 2)]
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])


def test_faces_of_several_sizes_have_a_place_each_and_take_selects_them():
    where = scenes((0, 1, 1))
    threat = resolved("stickers:rp2", where)
    assert threat.place_mm.shape == (3, 4)
    torch.testing.assert_close(threat.place_mm[1] / 600, threat.place_mm[0] / 750)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(threat.take(rows).place_mm, resolved("stickers:rp2", where.take(rows)).place_mm)
    torch.testing.assert_close(threat.take(rows).alpha, resolved("stickers:rp2", where.take(rows)).alpha)
    one = threat.artwork(theta_of(threat, where))
    assert one.rgb.shape[0] == one.alpha.shape[0] == 1
    assert threat.artwork(theta_of(threat, where, per_scene=True)).rgb.shape[0] == 3


def test_poster_stays_near_its_face():
    where = scenes((1, 1))
    threat = resolved("poster:8/255", where)
    theta = threat.project(torch.rand(1, 3, SIDE, SIDE))
    artwork = threat.artwork(theta)
    assert (theta - where.faces.images[1:, :3]).abs().max() <= 8 / 255 + 1e-6
    assert torch.equal(artwork.alpha[0, 0], disc())
    assert artwork.place_mm.tolist() == [[0, 0, 600, 600]]


@pytest.mark.parametrize("text", ["linf:8/255", "l2:0.5"])
def test_norm_balls_cover_the_whole_photograph(text: str):
    where = scenes((0, 1, 0))
    threat = resolved(text, where)
    theta = theta_of(threat, where)
    assert theta.shape == where.images.shape
    corners = threat.place_mm.reshape(3, 2, 2)
    mapped = corners * torch.tensor([0.04, 0.05]) + torch.tensor([1.0, -2.0])
    torch.testing.assert_close(mapped, torch.tensor([[0.0, 0], [40, 32]]).expand(3, 2, 2), atol=1e-3, rtol=0)
    norm = (theta - where.images).flatten(1).norm(p=float("inf") if "inf" in text else 2, dim=1)
    assert norm.max() <= (8 / 255 if "inf" in text else 0.5) + 1e-5
    assert norm.min() > 0.02


def test_black_and_white_prints_two_colours_and_passes_the_gradient():
    where = scenes()
    threat = resolved("patch:80mm", where, palette="bw")
    theta = theta_of(threat, where).requires_grad_()
    rgb = threat.artwork(theta).rgb
    torch.testing.assert_close(rgb, (theta.detach().mean(1, keepdim=True) >= 0.5).float().expand_as(rgb))
    rgb.sum().backward()
    assert torch.equal(theta.grad, torch.ones_like(theta))
    assert threat.project(theta.detach()).unique().numel() > 2


@pytest.mark.parametrize("text", [row.example for row in list_threats()])
def test_every_example_of_the_table_resolves(text: str):
    where = scenes()
    threat = resolved(text, where)
    theta = theta_of(threat, where, per_scene=threat.sought)
    torch.testing.assert_close(threat.project(theta), theta)
    again = theta_of(threat, where, per_scene=threat.sought)
    assert torch.equal(theta, again)
    assert threat.artwork(theta).rgb.shape[2:] == threat.size_px


# ---- on disk


@pytest.mark.parametrize("count", [1, 3])
def test_saved_artwork_loads_as_its_quantised_self(tmp_path, count: int):
    generator = torch.Generator().manual_seed(0)
    artwork = Artwork(
        torch.rand(count, 3, 6, 9, generator=generator),
        torch.rand(1, 1, 6, 9, generator=generator),
        1000 * torch.rand(count, 4, generator=generator),
        {"threat": "patch:80mm", "seed": 0},
    )
    artwork.save(tmp_path / "made")
    loaded, kept = load_artwork(tmp_path / "made"), artwork.quantised()
    assert torch.equal(loaded.rgb, kept.rgb)
    assert torch.equal(loaded.alpha, kept.alpha)
    assert torch.equal(loaded.place_mm, kept.place_mm)
    assert loaded.record == kept.record
    assert 0 < (kept.rgb - artwork.rgb).abs().max() <= 0.5 / 255 + 1e-6
    assert (tmp_path / "made" / ("art.png" if count == 1 else "art-0002.png")).is_file()


def test_a_broken_artwork_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no artwork\.json"):
        load_artwork(tmp_path)
    Artwork(torch.rand(1, 3, 6, 9), torch.ones(1, 1, 6, 9), torch.zeros(1, 4)).save(tmp_path)
    Image.new("RGB", (9, 6), "red").save(tmp_path / "art.png")
    with pytest.raises(UserError, match="was changed"):
        load_artwork(tmp_path)
    (tmp_path / "artwork.json").write_text(json.dumps({"record": {}}))
    with pytest.raises(UserError, match="does not describe an artwork"):
        load_artwork(tmp_path)


# ---- sentences


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("sticker", {}, "did you mean 'stickers'"),
        ("zzz", {}, "there are stickers, patch"),
        ("stickers:two-bar", {}, "did you mean 'two-bars'"),
        ("stickers:rp2", {"mask": "two-bars"}, "give one of them"),
        ("patch:80", {}, "not a size"),
        ("patch", {}, "not a size"),
        ("patch:0mm", {}, "no area"),
        ("patch:110%", {}, "at most 100 %"),
        ("patch:0%", {}, "more than 0 %"),
        ("patch:60x40mm:circle", {}, "patch:60mm:circle"),
        ("patch:80mm:cirle", {}, "did you mean 'circle'"),
        ("patch:80mm@left", {}, "@x,y in mm"),
        ("patch:80mm", {"mask": "rp2"}, "where stickers go"),
        ("patch:80mm", {"palette": "bv"}, "did you mean 'bw'"),
        ("poster:0.3", {"palette": "bw"}, "leave it out"),
        ("ring:4", {}, "write ring:4%"),
        ("linf:2", {}, "whole range"),
        ("linf:8/0", {}, "above 0"),
        ("linf", {}, "above 0"),
        ("l2:-1", {}, "above 0"),
    ],
)
def test_what_cannot_be_parsed_is_said_with_the_remedy(text: str, options: dict[str, str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        parse_threat(text, **options)


@pytest.mark.parametrize(
    ("text", "where", "sentence"),
    [
        ("patch:800mm", scenes(), "does not fit"),
        ("patch:80mm@20,300", scenes(), "make it smaller or move it"),
        ("poster:8/255", scenes((0, 1)), "needs one face"),
        ("linf:8/255", scenes(tilt=0.01), "at an angle"),
    ],
)
def test_what_does_not_fit_the_scenes_is_said_with_the_remedy(text: str, where: Scenes, sentence: str):
    with pytest.raises(UserError, match=sentence):
        theta_of(resolved(text, where), where)


def test_norm_balls_refuse_staged_signs():
    where = scenes()
    staged = Scenes(**{**vars(where), "backgrounds": torch.rand(1, 3, 32, 32)})
    with pytest.raises(UserError, match="staged signs have none"):
        resolved("l2:0.5", staged)
