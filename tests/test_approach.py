"""A simulated drive: how far the car needs, from how far the sign is found, and what stays as it is on the way."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from physadv.approach import DISTANCES_M, Approaches, approaches, braking_m, drive
from physadv.scenes import Scenes, load_scenes
from physadv.targets import Detector, weights_hash
from physadv.targets.fake import fake_detector
from physadv.threats import Artwork
from physadv.transforms.stages import Stages
from physadv.transforms.view import Pinhole
from physadv.transforms.world import World, load_world

SIZE, SPEED_KMH = 64, 30.0
FAR_TO_NEAR = (12.0, 6.0, 3.0, 1.5)
DRIVE_BY = load_world("drive-by")
# The sign is 36 px wide at 3 m, and red enough: nothing but the distance decides.
ROAD = World("road", (Stages(view=(Pinhole(focal_px=(3600.0, 3600.0)),)),))


@cache
def sign() -> Scenes:
    """A stop sign without its lettering: red all over."""
    scenes = load_scenes("staged:stop", street_px=SIZE)
    red = torch.tensor([0.8, 0.1, 0.1])[:, None, None].expand(3, *scenes.faces.images.shape[-2:])
    faces = replace(scenes.faces, images=torch.cat([red[None], scenes.faces.images[:, 3:]], 1))
    return replace(scenes, faces=faces, backgrounds=torch.full((2, 3, SIZE, SIZE), 0.5))


def sheet(value: float = 0.5) -> Artwork:
    """Grey over all of the sign but its rim."""
    size = float(sign().faces.size_mm[0, 0])
    place = torch.tensor([[0.05, 0.05, 0.95, 0.95]]) * size
    return Artwork(torch.full((1, 3, 4, 4), value), torch.ones(1, 1, 4, 4), place)


def driven(target: Detector, *, world: World = ROAD, count: int = 3, seed: int = 0) -> Approaches:
    how = {"world": world, "count": count, "speed_kmh": SPEED_KMH, "seed": seed}
    return approaches(target, sign(), sheet(), **how, distances_m=FAR_TO_NEAR)


@pytest.mark.parametrize(
    ("speed_kmh", "expected"),
    [(36.0, 10 + 100 / (2 * 0.7 * 9.81)), (72.0, 20 + 400 / (2 * 0.7 * 9.81)), (30.0, 13.389), (1e-9, 0.0)],
)
def test_the_braking_distance_is_a_second_and_full_braking(speed_kmh: float, expected: float) -> None:
    assert braking_m(speed_kmh) == pytest.approx(expected, abs=1e-3)


def test_a_blind_detector_never_finds_the_sign() -> None:
    told = driven(fake_detector(least=9.0)).to_json()
    for side in ("clean", "attacked"):
        assert told[side]["never"]["rate"] == told[side]["late"]["rate"] == 1.0
        assert told[side]["never"]["n"] == 3
        assert told[side]["found"] == [0.0] * 4
    assert told["braking_m"] == braking_m(SPEED_KMH)
    assert len(told["approaches"]) == 3


def test_a_sign_is_found_when_it_is_large_enough_and_a_covered_one_is_not() -> None:
    target = fake_detector(sizes_px=(18, 27))
    before = weights_hash(target.module)
    found = driven(target)
    assert found.clean.tolist() == [[False, True, True, False]] * 3  # 9, 18, 36, 72 px
    assert not found.attacked.any()
    assert weights_hash(target.module) == before
    told = found.to_json()
    assert told["clean"]["never"]["rate"] == 0.0
    assert told["clean"]["late"]["rate"] == 1.0  # found at 3 m; the car needs 13 m
    assert told["attacked"]["never"]["rate"] == 1.0
    assert told["approaches"][0] == {"clean": [False, True, True, False], "attacked": [False] * 4}


def test_late_is_what_is_found_too_near_to_stop() -> None:
    clean = torch.tensor([[False, True, True], [False, False, True], [False, False, False], [True, False, False]])
    told = Approaches((20.0, 14.0, 5.0), clean, ~clean, 13.4).to_json()
    assert (told["clean"]["late"]["k"], told["clean"]["never"]["k"], told["clean"]["late"]["n"]) == (2, 1, 4)
    assert (told["attacked"]["late"]["k"], told["attacked"]["never"]["k"]) == (0, 0)
    assert told["clean"]["found"] == [0.25, 0.25, 0.5]


def frames(world: World, count: int = 2, distances_m: tuple[float, ...] = FAR_TO_NEAR) -> tuple[Tensor, Tensor, Tensor]:
    """Photographs without a sign's artwork, its boxes, and the centres' way from the frame's middle."""
    rows = torch.arange(count).repeat_interleave(len(distances_m))
    views = drive(world, rows, torch.tensor(distances_m).repeat(count), seed=4)
    scenes = replace(sign().take(torch.zeros(len(rows), dtype=torch.long)))
    target = fake_detector()
    images = world.photograph(None, scenes, views, frame=target.frame)
    seen = world.seen(scenes, views, frame=target.frame)
    assert seen.image.tolist() == list(range(len(rows)))
    centre = (seen.box[:, :2] + seen.box[:, 2:]) / 2 - SIZE / 2
    return images, seen.box.unflatten(0, (count, -1)), centre.unflatten(0, (count, -1))


@pytest.mark.parametrize("world", [ROAD, DRIVE_BY], ids=["road", "drive-by"])
def test_the_sign_grows_as_the_car_comes_near(world: World) -> None:
    _, boxes, centre = frames(world)
    width = (boxes[..., 2:] - boxes[..., :2]).amax(-1)
    assert (width.diff(dim=1) > 0).all()
    small = width[:, 1] < SIZE / 3
    assert small.any()
    ratio = width[small, 1] / width[small, 0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0), atol=0.05, rtol=0)
    away = centre.norm(dim=-1)
    assert (away[:, 1] > away[:, 0]).all(), "out of the middle"


def test_a_drive_ends_at_the_distances_asked_for() -> None:
    views = drive(DRIVE_BY, torch.tensor([0, 0, 1, 1]), torch.tensor([40.0, 4.0, 40.0, 4.0]), seed=4)
    (draw,) = views.draws
    where = draw.of(draw.stages.get(Pinhole))
    assert where["distance_m"].tolist() == [40.0, 4.0, 40.0, 4.0]
    assert DISTANCES_M[0] == 40.0
    assert DISTANCES_M[-1] == 4.0
    steps = torch.tensor(DISTANCES_M)
    torch.testing.assert_close(steps[1:] / steps[:-1], torch.full((13,), 0.1 ** (1 / 13)), atol=2e-3, rtol=0)
    for name, value in where.items():
        if name != "distance_m":
            assert (value[0::2] == value[1::2]).all(), name
            assert value[0] != value[2], name


def test_light_printer_camera_and_background_stay_as_they_are_on_one_drive() -> None:
    views = drive(DRIVE_BY, torch.tensor([0, 0, 0, 1]), torch.tensor([40.0, 20.0, 4.0, 4.0]), seed=4)
    (draw,) = views.draws
    for family, params in draw.params.items():
        for name, value in params.items():
            if name not in ("distance_m", "dappled"):
                assert (value[:3] == value[:1]).all(), (family, name)
    assert torch.equal(draw.place[0], draw.place[2])
    other = drive(DRIVE_BY, torch.tensor([0]), torch.tensor([4.0]), seed=5).draws[0]
    assert not torch.equal(other.place[0], draw.place[0])

    images, boxes, _ = frames(DRIVE_BY, count=1, distances_m=(40.0, 20.0))
    low, high = boxes[0, :, :2].amin(0).floor() - 4, boxes[0, :, 2:].amax(0).ceil() + 4
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    behind = (x < low[0]) | (x > high[0]) | (y < low[1]) | (y > high[1])
    apart = (images[0] - images[1]).abs()[:, behind]
    assert behind.float().mean() > 0.3
    assert apart.median() < 0.01, "noise and JPEG blocks alone"


def test_films_show_the_first_drives() -> None:
    found = driven(fake_detector(), count=3)
    assert len(found.films) == 2
    clean, attacked = found.films[1]
    assert clean.shape == attacked.shape == (4, 3, SIZE, SIZE)
    assert clean.dtype == torch.uint8
    assert (clean != attacked).any()
    assert torch.equal(driven(fake_detector(), count=1).films[0][0], found.films[0][0])
    assert len(driven(fake_detector(), count=1).films) == 1


def test_drives_depend_on_the_seed_and_their_number_alone() -> None:
    target = fake_detector()
    three, one, other = (driven(target, world=DRIVE_BY, count=n, seed=s) for n, s in ((3, 1), (1, 1), (1, 2)))
    assert torch.equal(three.clean[:1], one.clean)
    assert torch.equal(three.films[0][0], one.films[0][0])
    assert not torch.equal(one.films[0][0], other.films[0][0])
