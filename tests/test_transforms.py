"""The battery that every transform family passes, and agreement with OpenCV's, Pillow's and Kornia's own versions."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from kornia.filters import gaussian_blur2d, unsharp_mask
from kornia.geometry.transform import get_tps_transform, warp_image_tps, warp_perspective
from PIL import Image
from torch import Tensor

from physadv.transforms import warp
from physadv.transforms.base import Colour, Params, Transform
from physadv.transforms.base import Field as LightField
from physadv.transforms.camera import Balance, Defocus, Jpeg, Motion, Noise, Sharpen, Tone
from physadv.transforms.colour import luminance, planckian_gain, saturation_matrix, to_linear, to_srgb
from physadv.transforms.light import Exposure, Glare, Gradient, Shadow, Temperature, Veil
from physadv.transforms.mount import Bend, Placement
from physadv.transforms.optics import blur_matrices, separable
from physadv.transforms.print import Ink, monomials
from physadv.transforms.stages import FAMILIES, derive, uniforms
from physadv.transforms.texture import texture, white_noise
from physadv.transforms.view import Backdrop, Box, Pinhole, Relative
from physadv.transforms.weather import Dirt, Fog, Rain, Snow

N = 4000
CRITICAL = 1.95 / math.sqrt(N)  # Kolmogorov-Smirnov at 0.1 %

Extract = Callable[[Params], Tensor]


@dataclass(frozen=True)
class Law:
    """A quantity of the parameters of `transform` that is uniform on low..high."""

    transform: Transform
    quantity: Extract
    low: float
    high: float


@dataclass(frozen=True)
class Case:
    """A transform that does something in every view; for each of its fields how the parameters must be distributed.

    laws: by field; a field whose parameter bears its name is uniform on its range without being named here.
    chances: probabilities by field: a transform, and whether it happened.
    """

    strong: Any
    laws: dict[str, Law] = field(default_factory=dict)
    chances: dict[str, tuple[Any, Extract]] = field(default_factory=dict)


def of(name: str, *index: int) -> Extract:
    return lambda params: params[name][(slice(None), *index)]


def apart(name: str) -> Extract:
    return lambda params: params[name] > 0


def corner(row: int, channel: int) -> Extract:
    """What a printer makes of a corner of the RGB cube, where every monomial is 0 or 1."""
    terms = monomials(to_srgb(CUBE[row]).reshape(1, 3, 1, 1), torch.ones(1, 1, 1, 1)).flatten()
    return lambda params: (params["response"] @ terms)[:, channel]


def mired(params: Params) -> Tensor:
    """Inverse of the Planckian gain: micro reciprocal kelvin."""
    grid = torch.linspace(1e6 / 15000, 1e6 / 3000, 5000)
    red, _, blue = planckian_gain(1e6 / grid).unbind(1)
    ratio = params["gain"][:, 0] / params["gain"][:, 2]
    return torch.from_numpy(np.interp(ratio.numpy(), (red / blue).numpy(), grid.numpy()))


CUBE = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]]).float()
PRESS_SRGB = torch.tensor(
    [
        [78, 77, 91],
        [240, 73, 81],
        [96, 179, 91],
        [92, 94, 165],
        [240, 228, 48],
        [176, 87, 159],
        [97, 191, 215],
        [255] * 3,
    ]
)
RED_IN_GREEN = float(to_linear(torch.tensor(73 / 255)))  # green light that the press's red reflects

WARM = Temperature(kelvin=(3200.0, 12000.0), photographed=(5000.0, 8000.0))
SHADE = Shadow(probability=1.0, depth=(0.3, 0.7), softness=(0.05, 0.2), dappled=0.5)
MIST = Fog(probability=1.0, transmission=(0.3, 0.9), airlight=(0.3, 0.6))

CASES: dict[type, Case] = {
    Ink: Case(
        Ink((0.5, 1.0), (0.1, 0.6), (0.6, 0.9), (0.01, 0.05), 0.1, 0.03),
        {
            "gamut": Law(Ink(gamut=(0.0, 1.0)), lambda p: corner(1, 1)(p) / RED_IN_GREEN, 0, 1),
            "dot_gain": Law(Ink(dot_gain=(-0.2, 0.6)), of("response", 0, 8), -0.2, 0.6),
            "paper": Law(Ink(paper=(0.5, 0.9)), corner(7, 1), 0.5, 0.9),
            "black": Law(Ink(black=(0.0, 0.2)), corner(0, 0), 0, 0.2),
            "tint": Law(Ink(tint=0.2), corner(7, 2), 0.8, 1),
            "jitter": Law(Ink(gamut=(1, 1), jitter=0.03), corner(1, 1), RED_IN_GREEN - 0.03, RED_IN_GREEN + 0.03),
            "response": Law(Ink(response=(0.1, *[0.0] * 32), jitter=0.05), of("response", 0, 0), 0.05, 0.15),
        },
    ),
    Placement: Case(Placement(3.0, (-10.0, 10.0)), {"shift_mm": Law(Placement(3.0), of("shift_mm", 1), -3, 3)}),
    Bend: Case(Bend(0.08), {"share": Law(Bend(0.08), of("moved", 4, 0), 0.42, 0.58)}),
    Exposure: Case(
        Exposure((-1.5, -0.2), (-0.5, 0.5)),
        {
            "stops": Law(Exposure((-2, 1)), lambda p: p["gain"].log2(), -2, 1),
            "photographed": Law(Exposure(photographed=(-1, 1)), lambda p: p["photographed"].log2(), -1, 1),
        },
    ),
    Temperature: Case(
        WARM,
        {
            "kelvin": Law(WARM, mired, 1e6 / 12000, 1e6 / 3200),
            "photographed": Law(WARM, lambda p: mired({"gain": p["photographed"]}), 1e6 / 8000, 1e6 / 5000),
        },
    ),
    Veil: Case(Veil((0.02, 0.2))),
    Gradient: Case(Gradient((0.2, 0.6)), {"direction": Law(Gradient((0.2, 0.6)), of("angle"), 0, 2 * math.pi)}),
    Shadow: Case(
        SHADE,
        {
            "direction": Law(SHADE, of("angle"), 0, 2 * math.pi),
            "offset": Law(SHADE, of("offset"), -0.35, 0.35),
        },
        {
            "probability": (Shadow(probability=0.3), apart("depth")),
            "dappled": (Shadow(probability=1.0, dappled=0.3), apart("dappled")),
        },
    ),
    Glare: Case(Glare(1.0, (0.1, 0.4), (0.1, 0.3)), {}, {"probability": (Glare(0.3), apart("strength"))}),
    Pinhole: Case(
        Pinhole((2.0, 20.0), (-45.0, 45.0), (-8.0, 25.0), (-4.0, 4.0), (700.0, 3500.0)),
        {"distance_m": Law(Pinhole((2.0, 20.0)), lambda p: p["distance_m"].log(), math.log(2), math.log(20))},
    ),
    Relative: Case(Relative((-15.0, 15.0), (-8.0, 8.0), (-4.0, 4.0), (1.0, 1.4))),
    Box: Case(
        Box(0.1, 0.2),
        {
            "shift": Law(Box(0.1, 0.2), of("jitter", 1), -0.1, 0.1),
            "scale": Law(Box(0.1, 0.2), of("jitter", 2), -0.2, 0.2),
        },
    ),
    Backdrop: Case(
        Backdrop((0.3, 0.8)), {"place": Law(Backdrop(), lambda p: p["corner"][:, 0] / (1 - p["crop"]), 0, 1)}
    ),
    Rain: Case(Rain(1.0, (0.2, 0.6), (0.1, 0.3)), {}, {"probability": (Rain(0.3), apart("light"))}),
    Snow: Case(Snow(1.0, (0.1, 0.5), (0.05, 0.1)), {}, {"probability": (Snow(0.3), apart("on"))}),
    Dirt: Case(Dirt(1.0, (0.2, 0.5)), {}, {"probability": (Dirt(0.3), apart("cover"))}),
    Fog: Case(
        MIST,
        {"airlight": Law(MIST, lambda p: p["glow"] / (1 - p["transmission"]), 0.3, 0.6)},
        {"probability": (Fog(0.3), apart("glow"))},
    ),
    Defocus: Case(Defocus((0.5, 2.0))),
    Motion: Case(Motion((1.0, 4.0), (0.5, 2.0))),
    Balance: Case(
        Balance(0.2, (0.7, 1.3)),
        {
            "stops": Law(Balance(0.3), lambda p: p["matrix"][:, 1, 1].log2(), -0.3, 0.3),
            "saturation": Law(Balance(0, (0.5, 1.5)), lambda p: p["matrix"][:, 0, 0] - p["matrix"][:, 1, 0], 0.5, 1.5),
        },
    ),
    Noise: Case(Noise((0.001, 0.01), (0.005, 0.03))),
    Tone: Case(Tone((-0.2, 0.3), (-0.1, 0.6))),
    Sharpen: Case(Sharpen((0.5, 1.5), (0.7, 2.0))),
    Jpeg: Case(Jpeg((30, 95))),
}
APPLIED = [family for family in CASES if hasattr(family, "apply")]
POSES = (Pinhole, Relative, Box, Backdrop)


def named(family: type) -> str:
    return family.__name__


every = pytest.mark.parametrize("family", CASES, ids=named)
applied = pytest.mark.parametrize("family", APPLIED, ids=named)


def noise(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(views: int, height: int, width: int) -> Tensor:
    """Colours that vary slowly: what a lossy coder keeps."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, y, 0.5 * (x + y)]).expand(views, 3, height, width) * 0.6 + 0.2


def drawn(transform: Any, views: int = 3, seed: int = 0) -> Params:
    return transform.sample(uniforms(range(views), transform.dims, seed=seed))


@cache
def many(dims: int) -> Tensor:
    return uniforms(range(N), dims, seed=7)


# --- the battery -----------------------------------------------------------------------------------------------------


def test_every_family_has_a_case() -> None:
    assert set(CASES) == {family for stage in FAMILIES.values() for family in stage.values()}
    assert set(CASES) - set(APPLIED) == set(POSES)


@every
def test_is_a_transform_with_one_row_of_parameters_per_view(family: type) -> None:
    transform = CASES[family].strong
    assert isinstance(transform, Transform)
    assert all(len(value) == 3 and torch.isfinite(value).all() for value in drawn(transform).values())


@applied
def test_images_keep_shape_and_range(family: type) -> None:
    images = torch.cat([noise(3, 3, 24, 20), torch.zeros(1, 3, 24, 20), torch.ones(1, 3, 24, 20)])
    out = family.apply(CASES[family].strong, images, drawn(CASES[family].strong, 5))
    assert out.shape == images.shape
    assert torch.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1 + 1e-6
    assert (out[:3] - images[:3]).abs().max() > 0.01  # a strong one does something


@applied
def test_is_the_identity_at_zero_strength(family: type) -> None:
    images = smooth(3, 24, 16)
    out = family().apply(images, drawn(family()))
    torch.testing.assert_close(out, images, atol=0.03 if family is Jpeg else 2e-6, rtol=0)


def test_poses_are_the_identity_at_zero_strength() -> None:
    centre, width = torch.tensor([[20.0, 30.0]] * 3), torch.full((3,), 25.0)
    same = Relative().homography(drawn(Relative()), centre, width)
    torch.testing.assert_close(same / same[:, 2:, 2:], torch.eye(3).expand(3, 3, 3))
    assert not drawn(Box())["jitter"].any()


@every
def test_the_same_uniforms_replay_the_same_parameters_and_image(family: type) -> None:
    transform = CASES[family].strong
    first, second, other = drawn(transform), drawn(transform), drawn(transform, seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    if family in APPLIED:
        images = noise(3, 3, 16, 16)
        untouched = images.clone()
        once = transform.apply(images, first)
        assert torch.equal(once, transform.apply(images, second))
        assert not torch.equal(once, transform.apply(images, other))
        assert torch.equal(images, untouched)


@applied
def test_a_batch_equals_its_views_one_by_one(family: type) -> None:
    transform, images = CASES[family].strong, noise(4, 3, 20, 16)
    together = transform.apply(images, drawn(transform, 4))
    for view in range(4):
        alone = transform.sample(uniforms([view], transform.dims, seed=0))
        torch.testing.assert_close(
            transform.apply(images[view : view + 1], alone)[0], together[view], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("family", [f for f in APPLIED if f not in (Jpeg, Placement, Bend)], ids=named)
def test_the_gradient_is_that_of_finite_differences(family: type) -> None:
    transform = Noise(read=(0.01, 0.02)) if family is Noise else CASES[family].strong
    params = drawn(transform, 1)
    if not isinstance(transform, LightField):  # fields are made in single precision, and are constants here
        params = {name: value.double() for name, value in params.items()}
    images = noise(1, 3, 4, 5, low=0.2, high=0.45).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transform.apply(x, params), images)


@pytest.mark.parametrize("family", [Placement, Bend], ids=named)
def test_the_gradient_of_a_warp_is_its_transpose(family: type) -> None:
    """Warps are linear, so <w, A x> = <Aᵀ w, x> says everything; their grids are single precision."""
    transform, weights = CASES[family].strong, noise(2, 3, 9, 9, seed=1)
    images = noise(2, 3, 9, 9).requires_grad_()
    dot = (transform.apply(images, drawn(transform, 2)) * weights).sum()
    (transposed,) = torch.autograd.grad(dot, images)
    torch.testing.assert_close((transposed * images).sum(), dot, atol=1e-3, rtol=1e-5)


def test_the_noise_passes_the_gradient_of_light_alone() -> None:
    light = noise(2, 3, 6, 6, low=0.1).requires_grad_()
    transform = Noise(shot=(0.01, 0.02))
    (gradient,) = torch.autograd.grad(transform.add(light, drawn(transform, 2), torch.ones(2)).sum(), light)
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_jpeg_gradient_is_exactly_one() -> None:
    images = noise(2, 3, 16, 16).requires_grad_()
    (gradient,) = torch.autograd.grad(Jpeg((30, 90)).apply(images, drawn(Jpeg((30, 90)), 2)).sum(), images)
    assert torch.equal(gradient, torch.ones_like(gradient))


# --- distributions ---------------------------------------------------------------------------------------------------


def laws(family: type) -> dict[str, Law]:
    """The stated laws, and that of every range whose parameter bears its name."""
    strong, stated = CASES[family].strong, CASES[family].laws
    own = {f.name: span for f in fields(strong) if isinstance(span := getattr(strong, f.name), tuple) and span}
    told = drawn(strong).keys() - stated.keys()
    return stated | {name: Law(strong, of(name), *span) for name, span in own.items() if name in told}


def kolmogorov_smirnov(values: Tensor, low: float, high: float) -> float:
    """The largest distance of the empirical distribution from the uniform one."""
    share = ((values.double() - low) / (high - low)).sort().values
    steps = torch.arange(len(share) + 1) / len(share)
    return float(torch.maximum((share - steps[:-1]).abs(), (share - steps[1:]).abs()).max())


def every_law() -> list[Any]:
    return [pytest.param(law, id=f"{family.__name__}.{name}") for family in CASES for name, law in laws(family).items()]


@every
def test_every_field_has_a_law(family: type) -> None:
    names = {f.name for f in fields(CASES[family].strong)}
    assert names <= laws(family).keys() | CASES[family].chances.keys()


@pytest.mark.parametrize("law", every_law())
def test_parameters_cover_their_range_as_stated(law: Law) -> None:
    u = many(law.transform.dims)
    values = law.quantity(law.transform.sample(u))
    slack = 0.02 * (law.high - law.low)
    assert law.low - 1e-3 * abs(law.low) - 1e-5 <= values.min() < law.low + slack
    assert law.high - slack < values.max() <= law.high + 1e-3 * abs(law.high) + 1e-5
    assert kolmogorov_smirnov(values, law.low, law.high) < CRITICAL
    skewed = law.quantity(law.transform.sample(u**1.3))
    assert kolmogorov_smirnov(skewed, law.low, law.high) > CRITICAL  # the test has the power to say no


def test_distance_is_log_uniform_and_not_uniform() -> None:
    distance = Pinhole((2.0, 20.0)).sample(many(5))["distance_m"]
    assert kolmogorov_smirnov(distance, 2, 20) > 5 * CRITICAL
    assert abs((distance < math.sqrt(40)).float().mean() - 0.5) < 0.03


@pytest.mark.parametrize(
    ("transform", "happened", "name"),
    [
        pytest.param(transform, happened, name, id=f"{family.__name__}.{name}")
        for family, case in CASES.items()
        for name, (transform, happened) in case.chances.items()
    ],
)
def test_chances_are_met(transform: Any, happened: Extract, name: str) -> None:
    def share(one: Any) -> float:
        return float(happened(one.sample(many(one.dims))).double().mean())

    assert abs(share(transform) - 0.3) < 3.3 * math.sqrt(0.3 * 0.7 / N)
    assert share(replace(transform, **{name: 0.0})) == 0
    assert share(replace(transform, **{name: 1.0})) == 1


@every
def test_bad_ranges_are_refused(family: type) -> None:
    strong = CASES[family].strong
    for one in fields(strong):
        value = getattr(strong, one.name)
        if value == ():  # a list, not a range
            continue
        if isinstance(value, tuple):
            with pytest.raises(ValueError, match=f"{one.name}: .* is above .*; write the smaller one first"):
                replace(strong, **{one.name: (value[1] + 1, value[0])})
        for wrong in ((value[0], 1e9), (-1e9, value[1])) if isinstance(value, tuple) else (1e9, -1e9):
            with pytest.raises(ValueError, match=f"{one.name}: .* leaves the physical range"):
                replace(strong, **{one.name: wrong})


def test_uniforms_depend_on_seed_and_view_alone() -> None:
    rows = uniforms(range(6), 5, seed=3)
    assert torch.equal(uniforms([4, 1], 5, seed=3), rows[[4, 1]])
    assert torch.equal(uniforms([4], 3, seed=3)[0], rows[4, :3])
    assert not torch.isclose(uniforms(range(6), 5, seed=4), rows).any()
    assert len({derive(*parts) for parts in [(1, 23), (12, 3), (1, "23", ""), ("a", 1), (1, "a")]}) == 5


# --- places ----------------------------------------------------------------------------------------------------------


def blob(x: float, y: float, size: int = 40) -> Tensor:
    """A soft dot on black, its centre at (x, y)."""
    points = warp.pixel_grid(0, 0, size, size, device=torch.device("cpu"))
    spot = torch.exp(-((points - torch.tensor([x, y])) ** 2).sum(-1) / 4.5)
    return spot.reshape(1, 1, size, size).expand(1, 3, size, size)


def centroid(images: Tensor) -> Tensor:
    weight = images.sum(1).flatten(1)
    points = warp.pixel_grid(0, 0, *images.shape[-2:], device=images.device)
    return (weight[..., None] * points).sum(1) / weight.sum(1, keepdim=True)


def test_placement_moves_a_dot_to_where_its_homography_says() -> None:
    transform = Placement(4.0, (20.0, 30.0))
    params = drawn(transform, 4)
    matrix = transform.homography(params, torch.full((4, 2), 20.0))
    seen = centroid(transform.apply(blob(27, 15).expand(4, -1, -1, -1), params))
    torch.testing.assert_close(seen, warp.project(matrix, torch.tensor([[[27.0, 15.0]]] * 4))[:, 0], atol=0.05, rtol=0)
    turned = seen - params["shift_mm"] - 20
    assert (torch.atan2(turned[:, 1], turned[:, 0]) > torch.atan2(torch.tensor(-5.0), torch.tensor(7.0))).all()


def test_bend_moves_its_nine_points_as_drawn() -> None:
    transform = Bend(0.08)
    params = drawn(transform, 4)
    rest = torch.tensor([[x, y] for y in (0, 0.5, 1) for x in (0, 0.5, 1)]).expand(4, 9, 2)
    torch.testing.assert_close(transform.pull(params, params["moved"]), rest, atol=1e-4, rtol=0)
    gentle = drawn(Bend(0.05), 4)
    seen = centroid(Bend(0.05).apply(blob(20, 20).expand(4, -1, -1, -1), gentle))
    torch.testing.assert_close(seen, gentle["moved"][:, 4] * 40, atol=0.3, rtol=0)


def test_angles_have_the_stated_signs() -> None:
    corners = torch.tensor([[[-300.0, -300.0], [300.0, -300.0], [300.0, 300.0], [-300.0, 300.0]]])

    def seen(yaw: float = 0, pitch: float = 0, roll: float = 0) -> Tensor:
        angles = (torch.tensor([float(value)]) for value in (yaw, pitch, roll))
        return warp.project(warp.pinhole(torch.tensor([3.0]), *angles, torch.tensor([1000.0])), corners)[0]

    yawed, pitched, rolled = seen(yaw=30), seen(pitch=30), seen(roll=30)
    assert yawed[2, 1] - yawed[1, 1] < yawed[3, 1] - yawed[0, 1]  # the right side recedes
    assert pitched[1, 0] - pitched[0, 0] < pitched[2, 0] - pitched[3, 0]  # the top recedes
    assert rolled[1, 1] > seen()[1, 1]  # clockwise: the top right corner comes down


def test_a_crop_holds_the_outline_with_its_context() -> None:
    outline = torch.tensor([[[10.0, 20.0], [50.0, 20.0], [50.0, 40.0], [10.0, 40.0]]])
    matrix, side = warp.crop_of(outline, size_px=32, context=0.25, jitter=torch.zeros(1, 3))
    assert side == 60
    torch.testing.assert_close(
        warp.project(matrix, torch.tensor([[[0.0, 0.0], [60.0, 60.0]]])), torch.tensor([[[0.0, 0.0], [32.0, 32.0]]])
    )
    moved, larger = warp.crop_of(outline, size_px=32, context=0.25, jitter=torch.tensor([[0.1, 0.0, math.log(2)]]))
    assert larger == 120
    torch.testing.assert_close(warp.project(moved, torch.tensor([[[30 + 12.0, 30.0]]])), torch.tensor([[[16.0, 16.0]]]))


@pytest.mark.parametrize(("texels", "level"), [(0.1, 0), (1, 0), (1.4, 0), (1.5, 1), (2, 1), (4, 2), (16, 4)])
def test_the_level_is_the_one_with_about_one_texel_per_px(texels: float, level: int) -> None:
    assert warp.level_for(torch.tensor([float(texels)])).tolist() == [level]


def test_a_pyramid_halves_and_keeps_the_mean_light() -> None:
    image = noise(2, 3, 32, 16)
    levels = warp.pyramid(image, levels=3)
    assert [tuple(level.shape[-2:]) for level in levels] == [(32, 16), (16, 8), (8, 4), (4, 2)]
    for level in levels:
        torch.testing.assert_close(level.mean((2, 3)), image.mean((2, 3)))
    points = warp.pixel_grid(0, 0, 4, 4, device=torch.device("cpu")).expand(2, -1, 2) / 4
    mixed = warp.sample_pyramid(levels, points, torch.tensor([2, 0]), height=4, width=4)
    for view, level in ((0, 2), (1, 0)):
        alone = warp.sample_pyramid(levels, points, torch.tensor([level] * 2), height=4, width=4)
        assert torch.equal(mixed[view], alone[view])


# --- agreement with other implementations ----------------------------------------------------------------------------


def test_srgb_agrees_with_kornia() -> None:
    images = torch.linspace(0, 1, 3000).reshape(1, 3, 20, 50)
    torch.testing.assert_close(to_linear(images), rgb_to_linear_rgb(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(to_srgb(images), linear_rgb_to_rgb(images), atol=1e-6, rtol=0)
    assert to_srgb(to_linear(images)).sub(images).abs().max() < 1e-6


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0])
def test_blur_agrees_with_kornia(sigma: float) -> None:
    images, inner = noise(1, 3, 48, 48), (..., slice(12, -12), slice(12, -12))
    spread = torch.tensor([[sigma**2, sigma**2, 0.0, 0.0]])
    ours = separable(images, *blur_matrices(spread, 48, 48))
    wide = math.sqrt(sigma**2 + 1 / 12)  # Kornia samples the kernel, a pixel integrates it over its own width
    theirs = gaussian_blur2d(images, (23, 23), (wide, wide))
    torch.testing.assert_close(ours[inner], theirs[inner], atol=1e-3, rtol=0)


@pytest.mark.parametrize("radius_px", [1.0, 2.0])
def test_sharpening_an_edge_is_kornias_unsharp_mask(radius_px: float) -> None:
    edges = noise(1, 3, 1, 48, low=0.3, high=0.7).expand(1, 3, 48, 48)
    wide = math.sqrt(radius_px**2 + 1 / 12)
    theirs = unsharp_mask(edges, (23, 23), (wide, wide))[..., 12:-12, 12:-12].clamp(0, 1)
    ours = {"amount": torch.ones(1), "radius_px": torch.tensor([radius_px])}
    seen = to_linear(Sharpen().apply(to_srgb(edges), ours))[..., 12:-12, 12:-12]
    torch.testing.assert_close(seen, theirs, atol=2e-3, rtol=0)


def test_blur_spreads_along_its_own_axis_and_keeps_light() -> None:
    dot = torch.zeros(1, 1, 33, 33)
    dot[..., 16, 16] = 1
    params = {"x_px": torch.tensor([6.0]), "y_px": torch.tensor([0.0])}
    out = separable(dot, *blur_matrices(Motion((6, 6), (0, 0)).spread(params), 33, 33))[0, 0]
    across = (torch.arange(33) - 16.0) ** 2
    assert out.sum() == pytest.approx(1, abs=1e-5)
    assert (out.sum(0) * across).sum() == pytest.approx(6**2 / 12 + 1 / 12, rel=0.01)  # the shutter's and the pixel's
    assert (out.sum(1) * across).sum() == pytest.approx(0, abs=1e-6)
    grey = torch.full((1, 3, 9, 9), 0.4)
    torch.testing.assert_close(separable(grey, *blur_matrices(torch.tensor([[4.0, 1, 3, 0]]), 9, 9)), grey)


def test_the_homography_warp_agrees_with_kornia() -> None:
    image = noise(1, 3, 30, 30)
    matrix = torch.tensor([[[0.9, 0.15, 2.0], [-0.1, 1.05, -1.0], [0.001, -0.002, 1.0]]])
    points = warp.project(matrix.inverse(), warp.pixel_grid(0, 0, 30, 30, device=torch.device("cpu"))) / 30
    ours = warp.sample_pyramid([image], points, torch.zeros(1, dtype=torch.long), height=30, width=30)
    half = torch.tensor([[0.5, 0.5]])  # Kornia's pixel centres lie on whole numbers
    shifted = warp.translation(-half) @ matrix @ warp.translation(half)
    theirs = warp_perspective(image, shifted, (30, 30), align_corners=True)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


def test_bend_agrees_with_kornia() -> None:
    image, transform = noise(2, 3, 24, 32), Bend(0.08)
    params = drawn(transform, 2)
    rest = torch.tensor([[x, y] for y in (-1.0, 0, 1) for x in (-1.0, 0, 1)]).expand(2, 9, 2)
    kernel, affine = get_tps_transform(2 * params["moved"] - 1, rest)
    theirs = warp_image_tps(image, rest, kernel, affine, padding_mode="border")
    torch.testing.assert_close(transform.apply(image, params), theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_agrees_with_pillow(quality: int) -> None:
    image = (smooth(1, 32, 32) + noise(1, 3, 32, 32, low=-0.05, high=0.05)).clamp(0, 1)
    ours = Jpeg((quality, quality)).apply(image, {"quality": torch.tensor([float(quality)])})
    buffer = io.BytesIO()
    pixels = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    theirs = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    assert (ours[0] - theirs).abs().max() <= 2.1 / 255
    assert (ours - image).abs().mean() > 2 / 255  # it does lose something


def test_worse_jpeg_is_further_from_the_original() -> None:
    images = smooth(2, 32, 32) + noise(2, 1, 32, 32, high=0.2)
    error = (Jpeg().apply(images, {"quality": torch.tensor([20.0, 90.0])}) - images).square().mean((1, 2, 3))
    assert error[0] > 1.5 * error[1]


def test_the_pinhole_agrees_with_opencv() -> None:
    distance, yaw, pitch, roll, focal = 4.0, 32.0, -11.0, 7.0, 1234.0
    matrix = warp.pinhole(*(torch.tensor([value]) for value in (distance, yaw, pitch, roll, focal)))
    points = np.array([[-400, -300], [350, -200], [120, 410], [0, 0]], float)
    turn = np.eye(3)
    for axis, angle in (((0, 0, 1), roll), ((1, 0, 0), -pitch), ((0, 1, 0), -yaw)):
        turn = turn @ cv2.Rodrigues(np.radians(angle) * np.array(axis, float))[0]
    spatial = np.column_stack([points / 1000, np.zeros(4)])
    camera = np.diag([focal, focal, 1.0])
    theirs, _ = cv2.projectPoints(spatial, cv2.Rodrigues(turn)[0], np.array([0, 0, distance]), camera, None)
    ours = warp.project(matrix, torch.from_numpy(points).float()[None])[0]
    torch.testing.assert_close(ours, torch.from_numpy(theirs[:, 0]).float(), atol=1e-3, rtol=1e-5)


def test_black_bodies_are_red_when_cool_and_blue_when_hot() -> None:
    gain = planckian_gain(torch.tensor([3000.0, 3700.0, 5000.0, 6500.0, 9000.0, 15000.0]))
    assert (gain[1:, 0] < gain[:-1, 0]).all()
    assert (gain[1:, 2] > gain[:-1, 2]).all()
    torch.testing.assert_close(gain[3], torch.ones(3))
    torch.testing.assert_close(luminance(gain[:, :, None, None]).flatten(), torch.ones(6))


# --- what single families are ----------------------------------------------------------------------------------------


def cube() -> Tensor:
    """The eight corners of the RGB cube as an image of 1 × 8 px."""
    return CUBE.T.reshape(1, 3, 1, 8)


def test_ink_prints_the_corners_in_its_primaries_exactly() -> None:
    press = Ink(gamut=(1, 1), dot_gain=(0.4, 0.4), jitter=0.05)
    printed = press.apply(cube(), press.sample(torch.full((1, 29), 0.5)))
    torch.testing.assert_close(printed[0, :, 0].T, PRESS_SRGB / 255, atol=1e-5, rtol=0)


def test_ink_varies_primaries_paper_and_black_as_stated() -> None:
    u = noise(1, 29)
    printer = CASES[Ink].strong
    press = torch.lerp(CUBE, to_linear(PRESS_SRGB / 255), 0.5 + 0.5 * u[0, 0])
    spread = 0.03 * (2 * u[0, 1:25].reshape(8, 3) - 1)
    spread[7] = 0
    white = (0.6 + 0.3 * u[0, 26]) * (1 - 0.1 * u[0, 25] * torch.tensor([0, 0.1, 1]))
    black = 0.01 + 0.04 * u[0, 27]
    expected = black + (white - black) * (press + spread).clamp(0, 1)
    printed = to_linear(printer.apply(cube(), printer.sample(u)))[0, :, 0].T
    torch.testing.assert_close(printed, expected, atol=1e-5, rtol=0)


def test_dot_gain_darkens_midtones_alone() -> None:
    tones = torch.linspace(0, 1, 9).expand(1, 3, 1, 9)
    gained = Ink(dot_gain=(0.4, 0.4)).apply(tones, drawn(Ink(dot_gain=(0.4, 0.4)), 1))
    torch.testing.assert_close(gained[..., [0, -1]], tones[..., [0, -1]], atol=1e-5, rtol=0)
    assert (gained[..., 1:-1] < tones[..., 1:-1] - 0.005).all()


def test_monomials_are_premultiplied_and_start_with_the_coverage() -> None:
    rgb, alpha = noise(1, 3, 4, 4), noise(2, 1, 4, 4, seed=1)
    terms = monomials(rgb, alpha)
    assert terms.shape == (2, 11, 4, 4)
    assert torch.equal(terms[:, :1], alpha)
    torch.testing.assert_close(terms[:, 1:4], to_linear(rgb) * alpha)


def test_saturation_goes_from_grey_to_itself() -> None:
    colour = torch.tensor([0.7, 0.2, 0.4])
    grey, same = saturation_matrix(torch.tensor([0.0, 1.0])) @ colour
    assert grey.std() < 1e-6
    torch.testing.assert_close(same, colour)


def test_noise_has_the_stated_variance() -> None:
    transform, light = Noise((0.01, 0.01), (0.02, 0.02)), torch.full((2, 3, 96, 96), 0.3)
    added = transform.add(light, drawn(transform, 2), torch.tensor([1.0, 0.5])) - light
    sigma = math.sqrt(0.01 * 0.3 + 0.02**2)
    assert added[0].std() == pytest.approx(sigma, rel=0.03)
    assert added[1].std() == pytest.approx(sigma / 2, rel=0.03)
    assert abs(added[0].mean()) < 0.1 * sigma


def test_noise_and_texture_are_cut_at_their_place() -> None:
    place = torch.tensor([[0.1, 0.2], [0.7, 0.9], [0.1, 0.2]])
    for cut in (white_noise(place, 20, 24), texture(place, 20, 24, scale=torch.full((3,), 0.1))):
        assert torch.equal(cut[0], cut[2])
        assert abs(torch.corrcoef(cut[:2].flatten(1))[0, 1]) < 0.3
    wide = white_noise(place[:1], 300, 200)
    assert abs(wide.mean()) < 0.02
    assert wide.std() == pytest.approx(1, abs=0.02)


def test_tone_overshoots_nowhere() -> None:
    ramp = torch.linspace(0, 1, 300).expand(2, 3, 1, 300)
    curves = Tone((-0.5, 0.5), (0.9, 0.9)).apply(
        ramp, {"gamma": torch.tensor([-0.5, 0.5]), "contrast": torch.full((2,), 0.9)}
    )
    assert curves.min() == 0
    assert curves.max() == 1


def test_light_is_never_negative() -> None:
    steep = Gradient((0.95, 0.95))
    gain, _ = steep.fields({"strength": torch.tensor([0.95]), "angle": torch.tensor([math.pi / 4])}, 32, 32)
    assert gain.min() == 0
    assert gain[0, 0, 15:17, 15:17].mean() == pytest.approx(1, abs=0.01)


def test_a_shadow_takes_its_share_on_one_side() -> None:
    params = {name: torch.tensor([value]) for name, value in (("depth", 0.6), ("softness", 0.02), ("dappled", 0.0))}
    params |= {"angle": torch.zeros(1), "offset": torch.zeros(1), "place": torch.zeros(1, 2)}
    gain = SHADE.fields(params, 16, 16)[0][0, 0]
    torch.testing.assert_close(gain[:, :4], torch.ones(16, 4), atol=1e-3, rtol=0)
    torch.testing.assert_close(gain[:, -4:], torch.full((16, 4), 0.4), atol=1e-3, rtol=0)


def test_fog_is_koschmieders_law() -> None:
    light = torch.tensor([[0.1, 0.5, 0.9]])
    matrix, offset = MIST.affine({"transmission": torch.tensor([0.4]), "glow": torch.tensor([0.6 * 0.5])})
    torch.testing.assert_close(matrix @ light[:, :, None] + offset[:, :, None], 0.4 * light[:, :, None] + 0.6 * 0.5)


def test_glare_is_brightest_at_its_centre() -> None:
    params = {"strength": torch.tensor([0.5]), "radius": torch.tensor([0.1]), "centre": torch.tensor([[0.25, 0.75]])}
    gain, glow = Glare(1.0).fields(params, 40, 40)
    assert (gain == 1).all()
    assert divmod(int(glow.flatten().argmax()), 40) in {(row, column) for row in (29, 30) for column in (9, 10)}
    assert glow.max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("family", [Rain, Snow, Dirt], ids=named)
def test_weather_covers_more_where_it_is_denser(family: type) -> None:
    strong = CASES[family].strong
    amount = "cover" if family is Dirt else "density"
    params = drawn(strong, 1)
    gains = [strong.fields(params | {amount: torch.tensor([value])}, 32, 32)[0].mean() for value in (0.1, 0.5, 0.9)]
    assert gains[0] > gains[1] > gains[2]


@pytest.mark.parametrize(("family", "colour"), [(Rain, 0.7), (Snow, 0.85), (Dirt, (0.16, 0.12, 0.08))])
def test_weather_shows_its_own_colour_for_the_light_it_takes(family: type, colour: Any) -> None:
    gain, glow = CASES[family].strong.fields(drawn(CASES[family].strong, 2), 16, 16)
    expected = (1 - gain) * torch.as_tensor(colour).reshape(1, -1, 1, 1)
    torch.testing.assert_close(glow.expand(2, 3, 16, 16), expected.expand(2, 3, 16, 16))


@pytest.mark.parametrize("family", [f for f in CASES if issubclass(f, Colour | LightField)], ids=named)
def test_light_adds_up(family: type) -> None:
    """Linear in linear light: the response to a mean is the mean of the responses."""
    strong, params = CASES[family].strong, drawn(CASES[family].strong, 1)
    one, two = (noise(1, 3, 8, 8, seed=seed, low=0.1, high=0.5) for seed in (0, 1))
    mean = to_srgb((to_linear(one) + to_linear(two)) / 2)
    parts = [to_linear(strong.apply(image, params)) for image in (one, two, mean)]
    torch.testing.assert_close(parts[2], (parts[0] + parts[1]) / 2, atol=1e-5, rtol=0)
