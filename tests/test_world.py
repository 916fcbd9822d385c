"""The fused photograph against a slow one, and what a world promises: replay, batches, gradients, files."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from kornia.geometry.transform import get_tps_transform, warp_points_tps
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample

from physadv import ASSETS
from physadv.errors import UserError
from physadv.scenes.base import Faces, Scenes
from physadv.targets.base import Frame
from physadv.threats.base import Artwork
from physadv.transforms import view as views_of
from physadv.transforms.base import Colour
from physadv.transforms.base import Field as LightField
from physadv.transforms.camera import Balance, Defocus, Jpeg, Motion, Noise, Sharpen, Tone, recode_
from physadv.transforms.colour import to_linear, to_srgb
from physadv.transforms.geometry import geometry
from physadv.transforms.light import Exposure, Glare, Gradient, Shadow, Temperature, Veil
from physadv.transforms.mount import Bend, Placement
from physadv.transforms.paste import Windows
from physadv.transforms.print import Ink
from physadv.transforms.stages import FAMILIES, Draw, Stages
from physadv.transforms.texture import white_noise
from physadv.transforms.view import Backdrop, Box, Pinhole, Relative
from physadv.transforms.weather import Dirt, Fog, Rain, Snow
from physadv.transforms.world import DIGITAL, World, load_world, world_names

SIZE = 32
FRAME = Frame(SIZE, 0.1)
SIGN_MM = 600.0
PLACE = torch.tensor([[180.0, 150.0, 480.0, 360.0]])
NAMED = sorted(path.stem for path in (ASSETS / "worlds").glob("*.yaml"))

# Every family at once. Nothing clips and one output px takes less than a texel and a half, so that the slow way may
# clamp nothing and needs no pyramid.
FULL = Stages(
    print=(Ink((0.5, 1.0), (0.1, 0.4), (0.6, 0.8), (0.01, 0.05), 0.1, 0.03),),
    mount=(Placement(15.0, (-8.0, 8.0)), Bend(0.04)),
    light=(
        Exposure((-1.2, -0.5), (-0.8, -0.4)),
        Temperature((4500.0, 9000.0), (5600.0, 7600.0)),
        Veil((0.01, 0.05)),
        Gradient((0.1, 0.3)),
        Shadow(1.0, (0.2, 0.5), (0.05, 0.2), 0.5),
        Glare(1.0, (0.05, 0.15), (0.1, 0.3)),
    ),
    view=(
        Pinhole((8.0, 10.0), (-40.0, 40.0), (-8.0, 25.0), (-6.0, 6.0), (2000.0, 2500.0)),
        Relative((-15.0, 15.0), (-8.0, 8.0), (-6.0, 6.0), (1.0, 1.4)),
        Box(0.05, 0.06),
        Backdrop((0.4, 0.8)),
    ),
    camera=(
        Rain(1.0, (0.2, 0.4), (0.05, 0.15)),
        Snow(1.0, (0.1, 0.3), (0.05, 0.1)),
        Dirt(1.0, (0.1, 0.4)),
        Fog(1.0, (0.6, 0.9), (0.4, 0.7)),
        Defocus((1.0, 3.0)),
        Motion((2.0, 5.0), (0.0, 2.0)),
        Balance(0.1, (0.8, 1.1)),
        Noise((0.0003, 0.002), (0.001, 0.005)),
        Tone((-0.2, 0.3), (-0.1, 0.5)),
        Sharpen((0.5, 1.5), (0.7, 1.5)),
    ),
)
PHYSICAL = World("full", (FULL,))


def noise(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def faces() -> Faces:
    """Two faces, a disc and a square, 600 mm wide."""
    x = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    alpha = torch.stack([(torch.hypot(x[:, None], x[None]) <= 1).float(), torch.ones(SIZE, SIZE)])
    turn = torch.arange(32) / 32 * 2 * math.pi
    round_mm = SIGN_MM / 2 * (1 + torch.stack([turn.cos(), turn.sin()], 1))
    side = torch.linspace(0, SIGN_MM, 8)
    edge, none, all_ = side, torch.zeros(8), torch.full((8,), SIGN_MM)
    square_mm = torch.cat([torch.stack(s, 1) for s in ((edge, none), (all_, edge), (edge, all_), (none, edge))])
    images = torch.cat([noise(2, 3, SIZE, SIZE, seed=1, low=0.1, high=0.7), alpha[:, None]], 1)
    return Faces(images, torch.full((2, 2), SIGN_MM), torch.stack([round_mm, square_mm]), ("disc", "square"))


def scenes(count: int = 4, *, staged: bool, gain: float = 0.7, bias: float = 0.02) -> Scenes:
    face = torch.arange(count) % 2
    surface = torch.tensor([[30 / SIGN_MM, 0.002, 9.0], [-0.001, 31 / SIGN_MM, 8.0], [0.0, 0.0, 1.0]])
    return Scenes(
        images=noise(count, 3, 48, 48, seed=2, low=0.1, high=0.8),
        surface=surface.repeat(count, 1, 1),
        faces=faces(),
        face=face,
        labels=face,
        classes=("disc", "square"),
        names=tuple(f"scene {row}" for row in range(count)),
        groups=tuple(f"track {row}" for row in range(count)),
        gain=torch.ones(count, 3) if staged else gain * noise(count, 3, seed=3, low=0.8),
        bias=torch.zeros(count, 3) if staged else torch.full((count, 3), bias),
        native_px=torch.ones(count) if staged else torch.full((count,), 1.2),
        backgrounds=noise(3, 3, 40, 40, seed=4, low=0.1, high=0.6) if staged else None,
    )


def artwork(count: int = 1, *, height: int = 9, width: int = 12, seed: int = 5, place: Tensor = PLACE) -> Artwork:
    alpha = torch.ones(1, 1, height, width)
    alpha[..., : height // 3, : width // 3] = 0
    return Artwork(noise(count, 3, height, width, seed=seed, low=0.1, high=0.9), alpha, place)


staged_or_not = pytest.mark.parametrize("staged", [True, False], ids=["staged", "photographed"])


def photographs(
    world: World, where: Scenes, art: Artwork | None, *, seed: int = 11, first: int = 0, frame: Frame = FRAME
) -> Tensor:
    return world.photograph(art, where, world.draw(range(first, first + len(where)), seed=seed), frame=frame)


# --- the slow twin: one view at a time, full frame, one step after the other, nothing fused --------------------------


def slow_photograph(art: Artwork | None, scene: Scenes, draw: Draw) -> Tensor:
    """The photograph of one view of one scene, before JPEG."""
    draw = draw if scene.staged else draw.on_photographs()
    to_px, from_photo, sensor_px = slow_geometry(scene, draw)
    light = slow_scene(scene, draw, to_px, from_photo)
    if art is not None:
        light = slow_paste(light, art, scene, draw, to_px)
    lamp = float(draw.params[Exposure]["gain"] * scene.gain.mean())
    for transform in (*FULL.light, *FULL.camera):
        light = slow_light(light, transform, draw.params[type(transform)], lamp)
    light = slow_blur(light, draw, sensor_px, staged=scene.staged)
    grain = draw.params[Noise]
    sigma = (grain["shot"] * light.clamp(min=0) + grain["read"] ** 2).sqrt() * min(sensor_px, 1)
    light = light + sigma * white_noise(grain["place"], SIZE, SIZE)
    assert light.min() > -0.02
    encoded = to_srgb(light.clamp(0, 1))
    gamma, contrast = draw.params[Tone]["gamma"], draw.params[Tone]["contrast"]
    curve = encoded * (1 - encoded)
    return encoded + gamma * curve + contrast * curve * (2 * encoded - 1)


def matrix_of(rows: Any) -> np.ndarray:
    return np.array(rows, float)


def through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(points[None].astype(float), matrix)[0]


def slow_camera(params: dict[str, Tensor], distance: float, focal: float) -> np.ndarray:
    """Metres on the plane -> px, from a rotation written out by OpenCV."""
    turn = np.eye(3)
    for axis, name, sign in (((0, 0, 1), "roll_deg", 1), ((1, 0, 0), "pitch_deg", -1), ((0, 1, 0), "yaw_deg", -1)):
        turn = turn @ cv2.Rodrigues(matrix_of(axis) * sign * math.radians(float(params[name])))[0]
    return np.diag([focal, focal, 1.0]) @ np.column_stack([turn[:, 0], turn[:, 1], [0, 0, distance]])


def slow_geometry(scene: Scenes, draw: Draw) -> tuple[np.ndarray, np.ndarray, float]:
    """Surface mm -> frame px, photograph px -> frame px, frame px per sensor px."""
    outline = scene.faces.outline_mm[scene.face[0]].double().numpy()
    if scene.staged:
        params = draw.params[Pinhole]
        to_metres = matrix_of([[1e-3, 0, -SIGN_MM / 2000], [0, 1e-3, -SIGN_MM / 2000], [0, 0, 1]])
        seen = slow_camera(params, float(params["distance_m"]), float(params["focal_px"])) @ to_metres
        moved = np.eye(3)
    else:
        params, surface = draw.params[Relative], scene.surface[0].double().numpy()
        points = through(surface, outline)
        low, high = points.min(0), points.max(0)
        width, centre = (high - low).max(), (low + high) / 2
        to_widths = matrix_of([[1 / width, 0, -centre[0] / width], [0, 1 / width, -centre[1] / width], [0, 0, 1]])
        moved = np.linalg.inv(to_widths) @ slow_camera(params, 12.0, 12.0) @ to_widths
        seen = moved @ surface
    points = through(seen, outline)
    low, high = points.min(0), points.max(0)
    x, y, log_scale = draw.params[Box]["jitter"][0].tolist()
    side = (high - low).max() * (1 + 2 * FRAME.context) * math.exp(log_scale)
    left, top = (low + high) / 2 + (np.array([x, y]) - 0.5) * side
    scale = SIZE / side
    crop = matrix_of([[scale, 0, -left * scale], [0, scale, -top * scale], [0, 0, 1]])
    sensor = scale if scene.staged else scale * float(scene.native_px) * float(draw.params[Relative]["zoom"])
    return crop @ seen, crop @ moved, sensor


def slow_points(matrix: np.ndarray) -> Tensor:
    """Where every px of the frame comes from."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    return torch.from_numpy(through(np.linalg.inv(matrix), np.column_stack([x.ravel(), y.ravel()]))).float()


def slow_sample(image: Tensor, unit: Tensor, border: str) -> Tensor:
    grid = (2 * unit - 1).reshape(1, SIZE, SIZE, 2)
    return grid_sample(image, grid, padding_mode=border, align_corners=False)


def slow_scene(scene: Scenes, draw: Draw, to_px: np.ndarray, from_photo: np.ndarray) -> Tensor:
    if not scene.staged:
        return to_linear(slow_sample(scene.images, slow_points(from_photo) / 48, "reflection"))
    face = scene.faces.images[scene.face]
    premultiplied = torch.cat([to_linear(face[:, :3]) * face[:, 3:], face[:, 3:]], 1)
    seen = slow_sample(premultiplied, slow_points(to_px) / SIGN_MM, "zeros")
    chosen = draw.params[Backdrop]
    unit = chosen["corner"] + chosen["crop"] * slow_points(np.eye(3)) / SIZE
    picture = scene.backgrounds[int(chosen["which"] * 3)][None]
    return to_linear(slow_sample(picture, unit, "border")) * (1 - seen[:, 3:]) + seen[:, :3]


def slow_paste(light: Tensor, art: Artwork, scene: Scenes, draw: Draw, to_px: np.ndarray) -> Tensor:
    """Print, light as the scene does, mount, lay over."""
    printed = FULL.get(Ink).apply(art.rgb, draw.params[Ink])
    reflected = to_linear(printed) * scene.gain[..., None, None] + scene.bias[..., None, None]
    layer = torch.cat([reflected * art.alpha, art.alpha], 1)
    x1, y1, x2, y2 = art.place_mm[0].tolist()
    mounted = draw.params[Placement]
    turn = np.vstack(
        [cv2.getRotationMatrix2D(((x1 + x2) / 2, (y1 + y2) / 2), -float(mounted["rotate_deg"]), 1), [0, 0, 1]]
    )
    turn[:2, 2] += mounted["shift_mm"][0].numpy()
    unit = (slow_points(to_px @ turn) - torch.tensor([x1, y1])) / torch.tensor([x2 - x1, y2 - y1])
    rest = torch.tensor([[[x, y] for y in (0, 0.5, 1) for x in (0, 0.5, 1)]])
    spline = get_tps_transform(draw.params[Bend]["moved"], rest)
    seen = slow_sample(layer, warp_points_tps(unit[None], rest, *spline)[0], "zeros")
    return light * (1 - seen[:, 3:]) + seen[:, :3]


def slow_light(light: Tensor, transform: Any, params: dict[str, Tensor], lamp: float) -> Tensor:
    """One transform in linear light; what it adds is as bright as the lamp of this view."""
    if isinstance(transform, Colour):
        matrix, offset = transform.affine(params)
        return torch.einsum("ij,njhw->nihw", matrix[0], light) + lamp * offset[..., None, None]
    if isinstance(transform, LightField):
        gain, glow = transform.fields(params, SIZE, SIZE)
        return gain * light + lamp * glow
    return light


def slow_blur(light: Tensor, draw: Draw, sensor_px: float, *, staged: bool) -> Tensor:
    """A Gaussian of the optics' and the sensor px's variance, as a dense kernel; light lost at the edge is replaced.

    The signed one of sharpening comes in the same way, where the scene is no photograph.
    """
    sharp = draw.params[Sharpen]
    amount, halo = float(sharp["amount"]) * staged, (float(sharp["radius_px"]) * sensor_px) ** 2
    own = 1.0 if staged else max(sensor_px / float(draw.params[Relative]["zoom"]), 1.0)
    wider = max(sensor_px**2 - own**2, 0) / 12
    optics = [
        float(draw.params[Motion][name]) ** 2 / 12 + float(draw.params[Defocus]["sigma_px"]) ** 2
        for name in ("x_px", "y_px")
    ]
    variances = (sensor_px**2 * variance + wider for variance in optics)
    across, down = ((1 + amount) * slow_kernel(v) - amount * slow_kernel(v + halo) for v in variances)
    kernel = (down[:, None] * across[None])[None, None]
    around = len(across) // 2
    lost = conv2d(torch.ones(1, 1, SIZE, SIZE).double(), kernel, padding=around)
    blurred = [conv2d(light[:, c : c + 1].double(), kernel, padding=around) / lost for c in range(3)]
    return torch.cat(blurred, 1).float()


def slow_kernel(variance: float) -> Tensor:
    def below(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2 * variance)))

    return torch.tensor([below(k + 0.5) - below(k - 0.5) for k in range(-SIZE, SIZE + 1)], dtype=torch.float64)


def test_the_full_world_holds_every_family_but_jpeg() -> None:
    assert {type(t) for t in FULL} | {Jpeg} == {family for stage in FAMILIES.values() for family in stage.values()}


@staged_or_not
@pytest.mark.parametrize("pasted", [True, False], ids=["artwork", "clean"])
def test_the_fused_photograph_is_the_slow_one(staged: bool, pasted: bool) -> None:
    where, art = scenes(6, staged=staged), artwork() if pasted else None
    draws = PHYSICAL.draw(range(6), seed=11)
    fused = PHYSICAL.photograph(art, where, draws, frame=FRAME)
    for view in range(6):
        own = PHYSICAL.draw([view], seed=11).draws[0]
        slow = slow_photograph(art, where.take(torch.tensor([view])), own)
        torch.testing.assert_close(fused[view : view + 1], slow, atol=1e-4, rtol=0)


def test_jpeg_comes_last() -> None:
    where, art = scenes(staged=True), artwork()
    world = World("jpeg", (replace(FULL, camera=(*FULL.camera, Jpeg((40, 90)))),))
    draw = world.draw(range(4), seed=11).draws[0]
    before = photographs(PHYSICAL, where, art)
    share = geometry(where, draw, frame=FRAME).sensor_px.clamp(max=1)
    coded = recode_(before.clone(), draw.params[Jpeg]["quality"], share)
    expected = before.lerp(coded, share[:, None, None, None])
    torch.testing.assert_close(photographs(world, where, art), expected, atol=1e-6, rtol=0)
    assert not torch.equal(expected, before)


@pytest.mark.parametrize(("finer", "left"), [(2, 0.5), (4, 0.25)])
def test_a_file_finer_than_the_frame_costs_it_less(finer: int, left: float) -> None:
    """Coded at k times the frame's width and shrunk: about 1/k of the error is left."""
    picture = noise(4, 3, 12, 12).repeat_interleave(8, 2).repeat_interleave(8, 3)
    small = torch.nn.functional.avg_pool2d(picture, 2)

    def error(k: int) -> float:
        fine = small.repeat_interleave(k, 2).repeat_interleave(k, 3)
        coded = recode_(fine.clone(), torch.full((4,), 60.0))
        return float(torch.nn.functional.avg_pool2d(coded - fine, k).std())

    assert error(finer) / error(1) == pytest.approx(left, abs=0.06)


# --- replay and batches ----------------------------------------------------------------------------------------------


def test_a_view_depends_on_seed_and_number_alone() -> None:
    together, alone = PHYSICAL.draw(range(8), seed=5).draws[0], PHYSICAL.draw([5], seed=5).draws[0]
    for family, params in alone.params.items():
        for name, value in params.items():
            torch.testing.assert_close(together.params[family][name][5], value[0], atol=1e-6, rtol=1e-5)
    assert torch.equal(together.place[5], alone.place[0])
    other = PHYSICAL.draw(range(8), seed=6).draws[0]
    assert not torch.isclose(together.params[Pinhole]["yaw_deg"], other.params[Pinhole]["yaw_deg"]).any()


@staged_or_not
def test_photographs_do_not_depend_on_the_batch(staged: bool) -> None:
    where, art = scenes(6, staged=staged), artwork(6)
    whole = photographs(PHYSICAL, where, art)
    assert torch.equal(whole, photographs(PHYSICAL, where, art))
    for first, last in ((0, 1), (1, 3), (3, 6)):
        rows = torch.arange(first, last)
        part = photographs(PHYSICAL, where.take(rows), art.take(rows), first=first)
        torch.testing.assert_close(part, whole[rows], atol=1e-5, rtol=0)


def test_views_of_a_mixture_take_turns() -> None:
    parts = [Stages(light=(Exposure((stops, stops)),)) for stops in (-3.0, -2.0, -1.0)]
    world = World("three", tuple(parts))
    drawn = world.draw([4, 0, 2, 3, 7], seed=1)
    assert [rows.tolist() for rows in drawn.rows] == [[1, 3], [0, 4], [2]]
    assert [float(part.params[Exposure]["gain"][0]) for part in drawn.draws] == [0.125, 0.25, 0.5]
    alone = torch.stack([world.draw([view], seed=1).place()[0] for view in (4, 0, 2, 3, 7)])
    assert torch.equal(drawn.place(), alone)

    where = scenes(5, staged=False)
    mixed = world.photograph(None, where, drawn, frame=FRAME)
    for row, component in enumerate((1, 0, 2, 0, 1)):
        single = World("one", (parts[component],))
        expected = photographs(single, where.take(torch.tensor([row])), None)
        torch.testing.assert_close(mixed[row], expected[0])


def test_a_world_without_a_stage_lacks_it_and_nothing_else() -> None:
    less = PHYSICAL.without("print", "camera")
    assert [type(t) for t in less.components[0]] == [type(t) for t in (*FULL.mount, *FULL.light, *FULL.view)]
    assert less.hash != PHYSICAL.hash


# --- gradients -------------------------------------------------------------------------------------------------------


def loss_gradient(art: Artwork, where: Scenes, *, first: int = 0, world: World = PHYSICAL) -> Tensor:
    theta = art.rgb.clone().requires_grad_()
    weights = noise(6, 3, SIZE, SIZE, seed=8)[first : first + len(where)]
    images = photographs(world, where, replace(art, rgb=theta), first=first)
    (gradient,) = torch.autograd.grad((images * weights).mean((1, 2, 3)).mean(), theta)
    return gradient


@staged_or_not
def test_a_step_of_many_views_is_the_mean_of_single_ones(staged: bool) -> None:
    where = scenes(6, staged=staged)
    singles = [loss_gradient(artwork(), where.take(torch.tensor([view])), first=view) for view in range(6)]
    together = loss_gradient(artwork(), where)
    assert together.abs().max() > 1e-5
    torch.testing.assert_close(together, torch.stack(singles).mean(0), atol=1e-8, rtol=1e-3)


def test_the_gradient_is_that_of_finite_differences() -> None:
    art, where, step = artwork(), scenes(6, staged=True), 2e-2
    world = PHYSICAL.without("camera")  # the gradient leaves out how the light changes the noise
    direction = noise(1, 3, 9, 12, seed=9, low=-1)
    weights = noise(6, 3, SIZE, SIZE, seed=8)

    def loss(shift: float) -> float:
        moved = replace(art, rgb=art.rgb + shift * direction)
        return float((photographs(world, where, moved) * weights).mean((1, 2, 3)).double().mean())

    slope = (loss(step) - loss(-step)) / (2 * step)
    assert slope == pytest.approx(float((loss_gradient(art, where, world=world) * direction).sum()), rel=0.02)


def test_only_the_artwork_carries_a_gradient() -> None:
    where, art = scenes(staged=False), artwork()
    where = replace(where, images=where.images.requires_grad_())
    assert not photographs(PHYSICAL, where, art).requires_grad
    theta = art.rgb.requires_grad_()
    photographs(PHYSICAL, where, replace(art, rgb=theta)).sum().backward()
    assert theta.grad is not None
    assert theta.grad.abs().sum() > 0
    assert where.images.grad is None


def test_what_alpha_hides_has_no_gradient() -> None:
    assert not loss_gradient(artwork(), scenes(staged=True))[..., :3, :4].any()


# --- where things land -----------------------------------------------------------------------------------------------


GEOMETRY = World("geometry", (replace(Stages(), view=FULL.view),))


@staged_or_not
def test_a_dot_lands_where_the_homography_says(staged: bool) -> None:
    where, frame = scenes(4, staged=staged), Frame(96, 0.1)
    mm = np.array([[410.0, 260.0]])
    dot = Artwork(torch.ones(1, 3, 8, 8), torch.ones(1, 1, 8, 8), torch.tensor([[380.0, 230.0, 440.0, 290.0]]))
    white, black = (replace(dot, rgb=torch.full((1, 3, 8, 8), value)) for value in (0.8, 0.0))
    light, dark = (photographs(GEOMETRY, where, art, frame=frame) for art in (white, black))
    weight = to_linear(light) - to_linear(dark)
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    for view in range(4):
        own = GEOMETRY.draw([view], seed=11).draws[0]
        to_px, _, _ = slow_geometry(where.take(torch.tensor([view])), own)
        expected = through(to_px, mm)[0] * 96 / SIZE
        mass = weight[view].sum(0)
        seen = [float((mass * axis).sum() / mass.sum()) for axis in (x, y)]
        assert seen == pytest.approx(expected.tolist(), abs=0.25)


def test_nothing_changes_outside_the_artwork() -> None:
    where = scenes(4, staged=True)
    clean, worn = photographs(GEOMETRY, where, None), photographs(GEOMETRY, where, artwork())
    for view in range(4):
        to_px, _, _ = slow_geometry(where.take(torch.tensor([view])), GEOMETRY.draw([view], seed=11).draws[0])
        x1, y1, x2, y2 = PLACE[0].tolist()
        quad = through(to_px, np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])).astype(np.float32)
        far = np.array(
            [[cv2.pointPolygonTest(quad, (x + 0.5, y + 0.5), True) < -1.5 for x in range(SIZE)] for y in range(SIZE)]
        )
        changed = (worn[view] - clean[view]).abs().amax(0) > 0
        assert changed.any()
        assert not changed[torch.from_numpy(far)].any()


def test_artwork_off_the_frame_changes_nothing() -> None:
    where, away = scenes(4, staged=True), artwork(place=PLACE + torch.tensor([5000.0, 0.0, 5000.0, 0.0]))
    assert torch.equal(photographs(GEOMETRY, where, away), photographs(GEOMETRY, where, None))
    assert torch.equal(photographs(PHYSICAL, where, away), photographs(PHYSICAL, where, None))


def full_frame(count: int) -> Windows:
    return Windows(torch.arange(count), *torch.zeros(2, count, dtype=torch.long), SIZE, SIZE)


@pytest.mark.parametrize(("share", "texels"), [(0.08, 16), (0.0, 2)], ids=["bent", "coarse"])
def test_the_window_holds_all_of_a_bent_or_coarse_artwork(share: float, texels: int, monkeypatch: Any) -> None:
    world = World("bent", (replace(Stages(), mount=(Bend(share),), view=FULL.view),))
    where, art = scenes(4, staged=True), artwork(height=texels, width=texels)
    for view in range(4):
        rows = torch.tensor([view])
        windowed = photographs(world, where.take(rows), art, first=view)
        with monkeypatch.context() as patch:
            patch.setattr("physadv.transforms.paste._windows", lambda signs, _: [full_frame(len(signs.of))])
            whole = photographs(world, where.take(rows), art, first=view)
        torch.testing.assert_close(windowed, whole, atol=1e-6, rtol=0)


@staged_or_not
def test_one_light_shows_several_artworks(staged: bool) -> None:
    where = scenes(staged=staged)
    shots = PHYSICAL.prepare(where, PHYSICAL.draw(range(4), seed=11), frame=FRAME)
    for art in (None, artwork(seed=20), artwork(seed=21), artwork(4, seed=22)):
        assert torch.equal(shots.photograph(art), photographs(PHYSICAL, where, art))
    assert not torch.equal(shots.photograph(artwork(seed=20)), shots.photograph(artwork(seed=21)))


def test_each_scene_can_have_its_own_artwork_and_place() -> None:
    where, many = scenes(staged=True), artwork(4, seed=22)
    many = many.at(PLACE + 40 * torch.arange(4)[:, None])
    together = photographs(PHYSICAL, where, many)
    for row in range(4):
        rows = torch.tensor([row])
        alone = photographs(PHYSICAL, where.take(rows), many.take(rows), first=row)
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


def test_the_digital_world_returns_the_crop() -> None:
    square = torch.tensor([[24 / SIGN_MM, 0, 8.0], [0, 24 / SIGN_MM, 16.0], [0, 0, 1.0]])
    where = replace(scenes(2, staged=False), surface=square.repeat(2, 1, 1), native_px=torch.ones(2))
    exact = photographs(DIGITAL, where, None, frame=Frame(24, 0.0))
    torch.testing.assert_close(exact, where.images[:, :, 16:40, 8:32], atol=1e-5, rtol=0)
    middle = square + torch.tensor([[0.0, 0.0, 4.0], [0.0, 0.0, -4.0], [0.0, 0.0, 0.0]])
    whole = photographs(DIGITAL, replace(where, surface=middle.repeat(2, 1, 1)), None, frame=Frame(48, 0.5))
    torch.testing.assert_close(whole, where.images, atol=1e-5, rtol=0)


def test_a_picture_of_the_scene_is_neither_printed_nor_lit_again() -> None:
    """A norm ball: the artwork is the photograph itself."""
    square = torch.tensor([[24 / SIGN_MM, 0, 12.0], [0, 24 / SIGN_MM, 12.0], [0, 0, 1.0]]).repeat(2, 1, 1)
    where = replace(scenes(2, staged=False), surface=square, native_px=torch.ones(2))
    whole_mm = torch.tensor([[-12.0, -12.0, 36.0, 36.0]]) * SIGN_MM / 24
    picture = Artwork(noise(2, 3, 48, 48), torch.ones(1, 1, 48, 48), whole_mm, printed=False)
    seen = photographs(DIGITAL, where, picture, frame=Frame(48, 0.5))
    torch.testing.assert_close(seen, picture.rgb, atol=2e-4, rtol=0)
    printed = photographs(DIGITAL, where, replace(picture, printed=True), frame=Frame(48, 0.5))
    expected = to_srgb(to_linear(picture.rgb) * where.gain[..., None, None] + where.bias[..., None, None])
    torch.testing.assert_close(printed, expected, atol=2e-4, rtol=0)


def test_beyond_its_edge_a_photograph_is_mirrored() -> None:
    square = torch.tensor([[24 / SIGN_MM, 0, 12.0], [0, 24 / SIGN_MM, 12.0], [0, 0, 1.0]]).repeat(2, 1, 1)
    where = replace(scenes(2, staged=False), surface=square, native_px=torch.ones(2))
    seen = photographs(DIGITAL, where, None, frame=Frame(72, 1.0))
    torch.testing.assert_close(seen, mirrored(where.images, 12), atol=1e-5, rtol=0)


def mirrored(images: Tensor, by: int) -> Tensor:
    return torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (by, by), (by, by)), "symmetric"))


def test_photographs_need_not_be_square() -> None:
    wide = torch.tensor([[24 / SIGN_MM, 0, 20.0], [0, 24 / SIGN_MM, 8.0], [0, 0, 1.0]]).repeat(2, 1, 1)
    where = replace(scenes(2, staged=False), images=noise(2, 3, 40, 50), surface=wide, native_px=torch.ones(2))
    seen = photographs(DIGITAL, where, None, frame=Frame(24, 0.0))
    torch.testing.assert_close(seen, where.images[:, :, 8:32, 20:44], atol=1e-5, rtol=0)


def test_a_finer_artwork_is_averaged_and_all_of_it_has_a_gradient() -> None:
    """A chequerboard of 256 texels on 13 px: without a coarser level it would alias, and most texels be missed."""
    board = (torch.arange(256)[:, None] + torch.arange(256)) % 2
    fine = Artwork(board.float().expand(1, 3, -1, -1), torch.ones(1, 1, 256, 256), PLACE)
    where = scenes(staged=True)
    grey = replace(fine, rgb=torch.full((1, 3, 256, 256), float(to_srgb(torch.tensor(0.5)))))
    world = World("near", (Stages(view=(Pinhole(),)),))
    torch.testing.assert_close(photographs(world, where, fine), photographs(world, where, grey), atol=0.01, rtol=0)
    assert (loss_gradient(fine, where, world=world).abs().sum(1) > 0).float().mean() > 0.99


def test_far_views_are_blurred_by_their_few_sensor_px() -> None:
    def detail(distance_m: float) -> float:
        world = World("far", (Stages(view=(Pinhole((distance_m, distance_m)),)),))
        return float(photographs(world, scenes(staged=True), artwork())[..., 8:-8, 8:-8].diff(dim=-1).abs().mean())

    assert detail(90) < 0.6 * detail(10)  # 10 px wide, 90 px wide


def test_distances_and_angles_stay_in_their_range_and_fill_its_cells() -> None:
    params = load_world("drive-by").draw(range(600), seed=0).draws[0].params[views_of.Pinhole]
    distance, yaw = params["distance_m"], params["yaw_deg"]
    assert ((distance >= 2) & (distance <= 20)).all()
    assert (yaw.abs() <= 45).all()
    cells = torch.histogramdd(torch.stack([distance.log(), yaw], 1), bins=[3, 3]).hist
    assert cells.min() > 600 / 9 / 2


# --- world files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_named_worlds_have_all_stages_and_take_photographs(name: str) -> None:
    world = load_world(name)
    assert world.name == name
    assert world.note
    for component in world.components:
        assert all((component.print, component.mount, component.light, component.view, component.camera))
        assert {Pinhole, Relative, Box, Backdrop} <= {type(t) for t in component.view}
    for staged in (True, False):
        images = photographs(world, scenes(staged=staged), artwork())
        assert torch.isfinite(images).all()
        assert images.min() >= 0
        assert images.max() <= 1
        assert images.flatten(1).std(1).min() > 0.01


def test_the_list_of_worlds_leaves_out_what_is_reserved() -> None:
    assert world_names() == sorted(set(NAMED) - {"promise"})
    assert load_world("promise").reserved
    assert len(load_world("promise").components) > 1
    assert not any(load_world(name).reserved for name in world_names())
    assert load_world("drive-by+promise").reserved


def test_worlds_joined_by_plus_take_turns_in_equal_parts() -> None:
    joined, drive, promise = load_world("drive-by+promise"), load_world("drive-by"), load_world("promise")
    assert joined.components[::2] == drive.components * 4
    assert joined.components[1::2] == promise.components
    assert load_world("night+low-sun").components == load_world("night").components + load_world("low-sun").components


def write(folder: Path, content: Any, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_the_hash_is_that_of_what_is_drawn(tmp_path: Path) -> None:
    source = ASSETS / "worlds" / "drive-by.yaml"
    content, drive = yaml.safe_load(source.read_text(encoding="utf-8")), load_world("drive-by")
    shuffled = {key: content[key] for key in reversed(content)} | {"note": "another note", "name": "copy"}
    copy = load_world(write(tmp_path, shuffled))
    assert (copy.name, copy.note) == ("copy", "another note")
    assert copy.hash == drive.hash == load_world("drive-by").hash
    assert copy.components == drive.components
    content["light"]["exposure"]["stops"][0] -= 0.1
    assert load_world(write(tmp_path, content)).hash != drive.hash
    assert len({load_world(name).hash for name in [*NAMED, "digital"]}) == len(NAMED) + 1


def test_files_may_have_a_plus_in_their_name_and_leave_stages_out(tmp_path: Path) -> None:
    path = write(tmp_path, "light:\n  exposure: {stops: [-1, 1]}\n  shadow:\ncamera:\n", "a+b.yaml")
    world = load_world(path)
    assert world.name == "a+b"
    assert world.components == (Stages(light=(Exposure((-1.0, 1.0)), Shadow())),)


def test_transforms_apply_in_physical_order_whatever_the_file_says(tmp_path: Path) -> None:
    mixed_up = "camera: {jpeg: , noise: , rain: }\nlight: {glare: , exposure: }"
    (stages,) = load_world(write(tmp_path, mixed_up)).components
    assert [type(t) for t in stages] == [Exposure, Glare, Rain, Noise, Jpeg]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("lihgt: {}", r"mine.yaml: unknown key 'lihgt'; did you mean 'light'\?"),
        ("light: {exposur: {}}", r"mine.yaml: light: unknown key 'exposur'; did you mean 'exposure'\?"),
        ("camera: {jpeg: {qualty: [1, 2]}}", r"camera.jpeg: unknown key 'qualty'; did you mean 'quality'\?"),
        ("zzz: {}", "unknown key 'zzz'; it knows print, mount, light, view, camera"),
        ("light: {jpeg: {}}", "light: unknown key 'jpeg'"),
        ("camera: {jpeg: {quality: [90, 50]}}", "camera.jpeg.quality: 90.0 is above 50.0; write the smaller one first"),
        ("camera: {jpeg: {quality: [50, 500]}}", r"quality: 50.0..500.0 leaves the physical range 5..100"),
        ("camera: {jpeg: {quality: [.nan, 60]}}", "camera.jpeg.quality: nan is above 60"),
        ("camera: {jpeg: {quality: 90}}", r"90 must be a range of two numbers; write it as \[low, high\]"),
        ("camera: {jpeg: {quality: [50, 60, 70]}}", r"must be a range of two numbers"),
        ("print: {ink: {response: [0.1, 0.2]}}", "response: give 33 coefficients"),
        ("print: {ink: {response: [a, b]}}", "must be a list of numbers"),
        ("print: {ink: {response: 3}}", "must be a list of numbers"),
        ("camera: {jpeg: {quality: [low, high]}}", r"camera.jpeg.quality: \['low', 'high'\] is not a number"),
        ("camera: {rain: {probability: [0.1, 0.2]}}", r"camera.rain.probability: \[0.1, 0.2\] is not a number"),
        ("camera: {rain: {probability: 1.5}}", "probability: 1.5..1.5 leaves the physical range 0.0..1.0"),
        ("camera: {rain: often}", "camera.rain must map names to values, not be 'often'"),
        ("light: [exposure]", "light must map names to values"),
        ("- print\n- mount", "must map stages .* to transforms"),
        ("", "must map stages .* to transforms"),
        ("light:\n  exposure: {stops: [1, 2", "not readable YAML .line 2: .*; mend that line"),
        ("light:\n\tveil: {}", "not readable YAML .line 2"),
        ("mixture: []", "mixture must be a list of worlds"),
        ("mixture: [dry]", "must map names to values, not be 'dry'"),
        ("mixture: [{light: {}}]\ncamera: {}", "mixture must be a list of worlds with no stage beside it"),
        ("mixture: [{light: {fog: {}}}]", "light: unknown key 'fog'"),
    ],
)
def test_a_bad_world_file_is_one_clear_sentence(content: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        load_world(write(tmp_path, content))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("drive-bye", r"no world 'drive-bye'; did you mean drive-by\?"),
        ("promis", "did you mean promise"),
        ("digitl", "did you mean digital"),
        ("zzz", "`physadv worlds` lists what there is"),
        ("night+nihgt", "did you mean night"),
        ("missing.yaml", "no world 'missing.yaml'"),
    ],
)
def test_an_unknown_world_names_the_nearest(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_world(spec)


def test_a_camera_inside_the_sign_is_refused():
    world = World("near", (Stages(view=(Pinhole(distance_m=(0.2, 0.2)),)),))
    large = scenes(1, staged=True)
    large = replace(large, faces=replace(large.faces, size_mm=torch.full_like(large.faces.size_mm, 900.0)))
    with pytest.raises(UserError, match="raise distance_m"):
        world.photograph(None, large, world.draw([0], seed=0), frame=FRAME)
