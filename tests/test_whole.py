"""Whole photographs with 0 to N signs: against a slow twin, in any window, and where the signs are said to be."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from kornia.geometry.transform import get_tps_transform, warp_points_tps
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, grid_sample, interpolate

from physadv.errors import UserError
from physadv.scenes import load_scenes
from physadv.scenes.base import Faces, Scenes, floats
from physadv.scenes.street import Annotation, Street
from physadv.scenes.street_develop import develop_street
from physadv.targets.base import Frame
from physadv.threats.base import Artwork
from physadv.transforms import paste
from physadv.transforms.base import Colour, Field
from physadv.transforms.camera import Balance, Defocus, Motion, Noise, Tone
from physadv.transforms.colour import to_linear, to_srgb
from physadv.transforms.light import Exposure, Gradient, Shadow, Temperature, Veil
from physadv.transforms.mount import Bend, Placement
from physadv.transforms.optics import blur_matrices, separable
from physadv.transforms.paste import Windows
from physadv.transforms.print import Ink
from physadv.transforms.stages import Draw, Stages
from physadv.transforms.texture import white_noise
from physadv.transforms.view import Backdrop, Pinhole, Relative
from physadv.transforms.weather import Fog
from physadv.transforms.world import DIGITAL, World, load_world
from tests.benchmarks.windows import canvases, case, compared, windows

SIZE, CANVAS, SENSOR = 64, 80, 1920
FRAME = Frame(SIZE, whole=True, pad=0.4)
SIGN_MM = 600.0
PLACE = torch.tensor([[80.0, 120.0, 500.0, 420.0]])
COUNTS = (0, 1, 3, 24)
# Nothing clips, and a sign's texels and a photograph's px are about as large as the frame's: level 0 of every pyramid.
STAGES = Stages(
    print=(Ink((0.5, 1.0), (0.1, 0.4), (0.6, 0.8), (0.01, 0.05), 0.1, 0.03),),
    mount=(Placement(15.0, (-8.0, 8.0)), Bend(0.02)),
    light=(
        Exposure((-1.0, -0.5), (-0.8, -0.4)),
        Temperature((4500.0, 9000.0), (5600.0, 7600.0)),
        Veil((0.01, 0.05)),
        Gradient((0.1, 0.3)),
        Shadow(1.0, (0.2, 0.5), (0.05, 0.2), 0.5),
    ),
    view=(
        Pinhole((1.0, 1.3), (-30.0, 30.0), (-8.0, 20.0), (-5.0, 5.0), (1300.0, 1500.0)),
        Relative((-12.0, 12.0), (-6.0, 6.0), (-5.0, 5.0), (1.0, 1.3)),
        Backdrop((0.4, 0.8)),
    ),
    camera=(
        Fog(1.0, (0.6, 0.9), (0.4, 0.7)),
        Defocus((0.5, 1.5)),
        Motion((1.0, 2.0), (0.0, 1.0)),
        Balance(0.1, (0.8, 1.1)),
        Noise((0.0003, 0.002), (0.001, 0.005)),
        Tone((-0.2, 0.3), (-0.1, 0.5)),
    ),
)
PHYSICAL = World("physical", (STAGES,))
POSES = load_world("drive-by").without("print", "mount", "light", "camera")


def noise(*shape: int, seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def faces() -> Faces:
    """A disc and a square, 600 mm wide, smooth enough to be seen at any size."""
    x = (torch.arange(32) + 0.5) / 16 - 1
    alpha = torch.stack([(torch.hypot(x[:, None], x[None]) <= 1).float(), torch.ones(32, 32)])
    turn = torch.arange(32) / 32 * 2 * math.pi
    disc = 0.5 + 0.5 * torch.stack([turn.cos(), turn.sin()], 1)
    side, none, all_ = torch.arange(8) / 8, torch.zeros(8), torch.ones(8)
    square = torch.cat(
        [torch.stack(edge, 1) for edge in ((side, none), (all_, side), (1 - side, all_), (none, 1 - side))]
    )
    pictures = interpolate(noise(2, 3, 4, 4, seed=1, low=0.2, high=0.6), (32, 32), mode="bilinear")
    size_mm, outline_mm = torch.full((2, 2), SIGN_MM), SIGN_MM * torch.stack([disc, square])
    return Faces(torch.cat([pictures, alpha[:, None]], 1), size_mm, outline_mm, ("disc", "square"))


def hung(x: float, y: float, width: float, *, lean: float = 0.05) -> Tensor:
    """mm -> canvas px of a sign whose top-left is at (x, y), a little aslant and in perspective."""
    scale = width / SIGN_MM
    return torch.tensor([[scale, lean * scale, x], [-0.6 * lean * scale, scale, y], [5e-5, -3e-5, 1.0]])


def places(count: int) -> list[Tensor]:
    """Signs that do not overlap, the more the smaller."""
    columns = math.ceil(math.sqrt(1.5 * count)) or 1
    side = (CANVAS - 8) / columns
    return [hung(6 + side * (row % columns), 5 + side * (row // columns), 0.72 * side) for row in range(count)]


def street(counts: tuple[int, ...] = COUNTS, *, worn: Tensor | None = None) -> Scenes:
    """Photographs with so many signs each, of various shapes; every sign in a light of its own."""
    surface = [place for count in counts for place in places(count)]
    signs, photographs = len(surface), len(counts)
    shapes = torch.tensor([[CANVAS, 60], [CANVAS, CANVAS], [72, CANVAS], [CANVAS, CANVAS]])
    face = torch.arange(signs) % 2
    return Scenes(
        images=noise(photographs, 3, CANVAS, CANVAS, seed=2, low=0.1, high=0.7),
        surface=torch.stack(surface) if surface else torch.empty(0, 3, 3),
        faces=faces(),
        face=face,
        labels=face,
        classes=("disc", "square"),
        names=tuple(f"photograph {row}" for row in range(photographs)),
        groups=tuple(f"place {row}" for row in range(photographs)),
        gain=noise(signs, 3, seed=3, low=0.5, high=0.7),
        bias=noise(signs, 3, seed=4, low=0.0, high=0.03),
        native_px=torch.full((photographs,), 1.1),
        photograph=torch.repeat_interleave(torch.arange(photographs), torch.tensor(counts)),
        extent_px=shapes[torch.arange(photographs) % 4].float(),
        worn=torch.ones(signs, dtype=torch.bool) if worn is None else worn,
    )


def staged(count: int = 4) -> Scenes:
    face = torch.arange(count) % 2
    return Scenes(
        images=faces().images[face, :3],
        surface=torch.diag(torch.tensor([32 / SIGN_MM, 32 / SIGN_MM, 1.0])).repeat(count, 1, 1),
        faces=faces(),
        face=face,
        labels=face,
        classes=("disc", "square"),
        names=tuple(f"face {row}" for row in range(count)),
        groups=tuple(f"face {row}" for row in range(count)),
        gain=torch.ones(count, 3),
        bias=torch.zeros(count, 3),
        native_px=torch.ones(count),
        backgrounds=noise(3, 3, SIZE, SIZE, seed=5, low=0.1, high=0.5),
    )


def artwork(count: int = 1, *, seed: int = 6, place: Tensor = PLACE) -> Artwork:
    alpha = torch.ones(1, 1, 3, 4)
    alpha[..., :1, :1] = 0
    return Artwork(noise(count, 3, 3, 4, seed=seed, low=0.2, high=0.8), alpha, place)


def photographs(
    world: World, where: Scenes, art: Artwork | None, *, seed: int = 11, first: int = 0, frame: Frame = FRAME
) -> Tensor:
    return world.photograph(art, where, world.draw(range(first, first + len(where)), seed=seed), frame=frame)


def row(index: int) -> Tensor:
    return torch.tensor([index])


# --- the slow twin: one photograph, one sign after the other, each on a full canvas -----------------------------------


def slow_photograph(art: Artwork | None, scene: Scenes, draw: Draw) -> Tensor:
    """Of one view of one scene."""
    draw = draw if scene.staged else draw.on_photographs()
    params, signs = draw.params, len(scene.face)
    warp, to_px, sensor_px = (slow_stand if scene.staged else slow_move)(scene, draw)
    light = (
        slow_stage(scene, warp, draw) if scene.staged else slow_sample(floats(scene.images), warp, CANVAS, "reflection")
    )
    for sign in range(signs):
        if art is not None and (scene.worn is None or bool(scene.worn[sign])):
            light = slow_paste(light, art, scene.gain[sign], scene.bias[sign], draw, to_px[sign])
    lamp = float(params[Exposure]["gain"]) * (float(scene.gain.mean()) if signs else 1.0)
    for transform in (*STAGES.light, *STAGES.camera):
        if isinstance(transform, Colour):
            matrix, offset = transform.affine(params[type(transform)])
            light = torch.einsum("ij,njhw->nihw", matrix[0], light) + lamp * offset[..., None, None]
        if isinstance(transform, Field):
            gain, glow = transform.fields(params[type(transform)], SIZE, SIZE)
            light = gain * light + lamp * glow
    light = separable(light, *blur_matrices(slow_spread(scene, params, sensor_px), SIZE, SIZE))
    grain = params[Noise]
    sigma = (grain["shot"] * light.detach() + grain["read"] ** 2).sqrt() * min(sensor_px, 1)
    light = light + sigma * white_noise(grain["place"], SIZE, SIZE)
    assert light.min() > -0.02
    assert light.max() < 1
    curve = to_srgb(light.clamp(0, 1))
    bend = curve * (1 - curve)
    image = curve + params[Tone]["gamma"] * bend + params[Tone]["contrast"] * bend * (2 * curve - 1)
    return image if scene.staged else slow_padding(image, scene, warp)


def through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(points[None].astype(float), matrix)[0]


def turned(params: dict[str, Tensor], distance: float, focal: float) -> np.ndarray:
    """Plane -> px, from a rotation written out by OpenCV."""
    turn = np.eye(3)
    for axis, name, sign in (((0, 0, 1), "roll_deg", 1), ((1, 0, 0), "pitch_deg", -1), ((0, 1, 0), "yaw_deg", -1)):
        turn = turn @ cv2.Rodrigues(np.array(axis, float) * sign * math.radians(float(params[name])))[0]
    return np.diag([focal, focal, 1.0]) @ np.column_stack([turn[:, 0], turn[:, 1], [0, 0, distance]])


def about(x: float, y: float, scale: float) -> np.ndarray:
    """(x, y) -> the origin, then scaled."""
    return np.array([[scale, 0, -x * scale], [0, scale, -y * scale], [0, 0, 1]])


def slow_stand(scene: Scenes, draw: Draw) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Surface mm -> frame px twice, frame px per sensor px: the sign somewhere in the frame of a wide sensor."""
    params = draw.params[Pinhole]
    posed = turned(params, float(params["distance_m"]), float(params["focal_px"]))
    shrunk = np.diag([SIZE / SENSOR, SIZE / SENSOR, 1]) @ posed @ about(SIGN_MM / 2, SIGN_MM / 2, 1e-3)
    outline = through(shrunk, scene.faces.outline_mm[scene.face[0]].numpy())
    low, high = outline.min(0), outline.max(0)
    x, y = draw.stand[0].double().numpy() * np.maximum(SIZE - (high - low), 0)
    placed = about(low[0] - x, low[1] - y, 1.0) @ shrunk
    return placed, [placed], SIZE / SENSOR


def slow_move(scene: Scenes, draw: Draw) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Canvas px -> frame px, surface mm -> frame px of every sign, frame px per px of the file."""
    assert scene.extent_px is not None
    params = draw.params[Relative]
    (width, height), zoom = scene.extent_px[0].tolist(), float(params["zoom"])
    unit = about(width / 2, height / 2, 1 / max(width, height))
    moved = np.linalg.inv(unit) @ np.diag([1 / zoom, 1 / zoom, 1]) @ turned(params, 12.0, 12.0) @ unit
    warp = np.diag([SIZE / CANVAS, SIZE / CANVAS, 1]) @ moved
    to_px = [warp @ surface.double().numpy() for surface in scene.surface]
    return warp, to_px, SIZE / CANVAS * float(scene.native_px)


def slow_points(matrix: np.ndarray) -> Tensor:
    """Where every px of the frame comes from."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    return torch.from_numpy(through(np.linalg.inv(matrix), np.column_stack([x.ravel(), y.ravel()])))


def slow_grid(image: Tensor, unit: Tensor, border: str) -> Tensor:
    grid = (2 * unit - 1).reshape(1, SIZE, SIZE, 2)
    return grid_sample(image.double(), grid.double(), padding_mode=border, align_corners=False).float()


def slow_sample(image: Tensor, warp: np.ndarray, size: float, border: str) -> Tensor:
    return to_linear(slow_grid(image, slow_points(warp) / size, border))


def slow_stage(scene: Scenes, to_px: np.ndarray, draw: Draw) -> Tensor:
    """The face before a backdrop that fills the frame."""
    assert scene.backgrounds is not None
    behind = scene.backgrounds[int(draw.params[Backdrop]["which"] * len(scene.backgrounds))][None]
    face = scene.faces.images[scene.face]
    premultiplied = torch.cat([to_linear(face[:, :3]) * face[:, 3:], face[:, 3:]], 1)
    seen = slow_grid(premultiplied, slow_points(to_px) / SIGN_MM, "zeros")
    return to_linear(behind) * (1 - seen[:, 3:]) + seen[:, :3]


def slow_paste(light: Tensor, art: Artwork, gain: Tensor, bias: Tensor, draw: Draw, to_px: np.ndarray) -> Tensor:
    """Print, light as this sign is lit, mount, lay over."""
    printed = to_linear(STAGES.get(Ink).apply(art.rgb, draw.params[Ink]))
    layer = torch.cat([(printed * gain[:, None, None] + bias[:, None, None]) * art.alpha, art.alpha], 1)
    x1, y1, x2, y2 = art.place_mm[0].tolist()
    mounted = draw.params[Placement]
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    turn = np.vstack([cv2.getRotationMatrix2D(middle, -float(mounted["rotate_deg"]), 1), [0, 0, 1]])
    turn[:2, 2] += mounted["shift_mm"][0].numpy()
    unit = ((slow_points(to_px @ turn) - torch.tensor([x1, y1])) / torch.tensor([x2 - x1, y2 - y1])).float()
    rest = torch.tensor([[[x, y] for y in (0, 0.5, 1) for x in (0, 0.5, 1)]])
    spline = get_tps_transform(draw.params[Bend]["moved"], rest)
    seen = slow_grid(layer, warp_points_tps(unit[None], rest, *spline)[0], "zeros")
    return light * (1 - seen[:, 3:]) + seen[:, :3]


def slow_spread(scene: Scenes, params: dict[type, Any], sensor_px: float) -> Tensor:
    """Of the lens and the shutter, and of sensor px wider than the frame's."""
    own = 1.0 if scene.staged else max(sensor_px / float(params[Relative]["zoom"]), 1.0)
    wider = max(sensor_px**2 - own**2, 0) / 12
    across, down = (
        (float(params[Defocus]["sigma_px"]) ** 2 + float(params[Motion][name]) ** 2 / 12) * sensor_px**2 + wider
        for name in ("x_px", "y_px")
    )
    return torch.tensor([[across, down, 0, 0]])


def slow_padding(image: Tensor, scene: Scenes, warp: np.ndarray) -> Tensor:
    """The pad's colour where nothing of the photograph is seen."""
    assert scene.extent_px is not None
    x, y = slow_points(warp).T
    (width, height) = scene.extent_px[0].tolist()
    depth = torch.stack([x, y, width - x, height - y]).amin(0).reshape(1, 1, SIZE, SIZE).float()
    inside = (depth + 0.5).clamp(0, 1)
    return inside * image + (1 - inside) * FRAME.pad


def slow_photographs(world: World, where: Scenes, art: Artwork | None) -> Tensor:
    views = (world.draw([view], seed=11).draws[0] for view in range(len(where)))
    return torch.cat([slow_photograph(art, where.take(row(view)), draw) for view, draw in enumerate(views)])


@pytest.mark.parametrize("where", [street(), staged()], ids=["street", "staged"])
@pytest.mark.parametrize("art", [artwork(), None], ids=["artwork", "clean"])
def test_the_photographs_are_the_slow_ones(where: Scenes, art: Artwork | None) -> None:
    slow = slow_photographs(PHYSICAL, where, art)
    torch.testing.assert_close(photographs(PHYSICAL, where, art), slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("where", [street(), staged()], ids=["street", "staged"])
def test_the_gradient_is_the_slow_one(where: Scenes) -> None:
    weights, gradients = noise(len(where), 3, SIZE, SIZE, seed=8), []
    for take in (photographs, slow_photographs):
        theta = artwork().rgb.requires_grad_()
        (take(PHYSICAL, where, replace(artwork(), rgb=theta)) * weights).mean().backward()
        assert theta.grad is not None
        gradients.append(theta.grad)
    assert gradients[1].abs().max() > 1e-5
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5 * float(gradients[1].abs().max()), rtol=1e-4)


def test_photographs_with_annotated_boxes_are_the_slow_ones(developed: Scenes) -> None:
    assert torch.bincount(developed.of, minlength=4).tolist() == [3, 0, 1, 2]
    where = developed.take(torch.arange(4))
    slow = slow_photographs(PHYSICAL, where, artwork())
    torch.testing.assert_close(photographs(PHYSICAL, where, artwork()), slow, atol=2e-5, rtol=0)


# --- photographs on disk ---------------------------------------------------------------------------------------------

BOXES = (
    ("trafficlight", ((10.0, 8.0, 40.0, 70.0), (100.0, 20.0, 120.0, 60.0), (60.0, 5.0, 80.5, 45.5))),
    ("stop", ()),
    ("trafficlight", ((-6.0, 30.0, 44.0, 110.0),)),
    ("crosswalk", ((12.0, 12.0, 40.0, 40.0), (60.0, 50.0, 90.0, 81.0))),
)
SHAPES = ((160, 90), (90, 160), (100, 120), (120, 120))


@pytest.fixture
def developed(tmp_path: Path) -> Scenes:
    """Photographs of several shapes with 3, 0, 1 and 2 signs."""
    streets = []
    for number, ((label, boxes), (width, height)) in enumerate(zip(BOXES, SHAPES, strict=True)):
        coarse = noise(1, 3, 6, 6, seed=number, low=0.2, high=0.6)
        pixels = interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1).numpy()
        path = tmp_path / f"{number}.png"
        Image.fromarray((255 * pixels).astype(np.uint8)).save(path)
        signs = tuple(Annotation(label, box) for box in boxes)
        streets.append(Street(path, path.stem, path.stem, (width, height), signs))
    return develop_street(streets, canvas_px=CANVAS)


def in_frame(size: int, shape: tuple[int, int], box: tuple[float, ...]) -> list[float]:
    """The box in the letterboxed photograph, clipped to it."""
    width, height = shape
    shrunk = [round(side * CANVAS / max(shape)) * size / CANVAS for side in shape]
    x, y = shrunk[0] / width, shrunk[1] / height
    x1, y1, x2, y2 = box
    return [max(x1 * x, 0), max(y1 * y, 0), min(x2 * x, shrunk[0]), min(y2 * y, shrunk[1])]


@pytest.mark.parametrize("size", [64, 80, 128])
def test_without_physics_signs_are_seen_in_their_annotated_boxes(developed: Scenes, size: int) -> None:
    seen = DIGITAL.seen(developed, DIGITAL.draw(range(4), seed=0), frame=Frame(size, whole=True))
    boxes = [in_frame(size, shape, box) for (_, some), shape in zip(BOXES, SHAPES, strict=True) for box in some]
    assert seen.image.tolist() == [0, 0, 0, 2, 3, 3]
    assert [developed.classes[label] for label in seen.label] == ["trafficlight"] * 4 + ["crosswalk"] * 2
    torch.testing.assert_close(seen.box, torch.tensor(boxes), atol=1e-3, rtol=0)


def test_without_physics_the_letterboxed_photograph_is_returned(developed: Scenes) -> None:
    same = photographs(DIGITAL, developed, None, frame=Frame(CANVAS, whole=True, pad=0.3))
    for view, (width, height) in enumerate(developed.extent_px.long().tolist()):
        expected = torch.full((3, CANVAS, CANVAS), 0.3)
        expected[:, :height, :width] = developed.images[view, :, :height, :width] / 255
        torch.testing.assert_close(same[view], expected, atol=1e-5, rtol=0)
        assert same[view, :, height:].eq(0.3).all()
        assert same[view, :, :, width:].eq(0.3).all()


@pytest.mark.parametrize("world", [PHYSICAL, load_world("drive-by")], ids=["physical", "drive-by"])
def test_what_is_no_photograph_is_the_pad(world: World) -> None:
    """Whatever the light and the noise; the photograph is a plane that is moved about."""
    where = street()
    images = photographs(world, where, artwork())
    for view in range(len(where)):
        draw = world.draw([view], seed=11).draws[0].on_photographs()
        warp, _, _ = slow_move(where.take(row(view)), draw)
        outside = slow_padding(torch.ones(1, 1, SIZE, SIZE), where.take(row(view)), warp)[0, 0] == np.float32(FRAME.pad)
        deep = outside.numpy().astype(np.uint8)
        deep = torch.from_numpy(cv2.erode(deep, np.ones((3, 3), np.uint8), borderValue=1)).bool()
        assert deep.any() or view in (1, 3)
        assert images[view][:, deep].eq(FRAME.pad).all()
        assert images[view][:, ~outside].ne(FRAME.pad).any(0).float().mean() > 0.99


# --- windows ---------------------------------------------------------------------------------------------------------


def full_frame(signs: Any, size: torch.Size) -> list[Windows]:
    count = len(signs.of)
    return [Windows(torch.arange(count), *torch.zeros(2, count, dtype=torch.long), *size)]


def over_the_edge(where: Scenes) -> Scenes:
    """Signs at the corners of the frame, some of them half or wholly outside."""
    corners = [(-9.0, -8.0), (72.0, 70.0), (-60.0, 20.0), (20.0, 300.0), (70.0, -12.0), (40.0, 40.0)]
    surface = torch.stack([hung(*corners[sign % 6], 24.0) for sign in range(len(where.face))])
    return replace(where, surface=surface, extent_px=torch.full((len(where), 2), float(CANVAS)))


@pytest.mark.parametrize(
    "where", [street(), over_the_edge(street((0, 1, 3, 6))), staged(6)], ids=["in", "out", "staged"]
)
@pytest.mark.parametrize("world", [PHYSICAL, DIGITAL], ids=["physical", "digital"])
def test_windows_change_nothing(where: Scenes, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = photographs(world, where, artwork())
    for growth in (1.01, 4.0):
        monkeypatch.setattr("physadv.transforms.paste._GROWTH", growth)
        torch.testing.assert_close(photographs(world, where, artwork()), seen, atol=1e-6, rtol=0)
    monkeypatch.setattr("physadv.transforms.paste._windows", full_frame)
    torch.testing.assert_close(photographs(world, where, artwork()), seen, atol=1e-6, rtol=0)


def test_windows_are_few_and_hardly_larger_than_the_artworks(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Windows] = []
    real = paste._windows
    monkeypatch.setattr(paste, "_windows", lambda signs, size: made.extend(found := real(signs, size)) or found)
    where = replace(street((24, 24)), extent_px=torch.full((2, 2), float(CANVAS)))
    photographs(DIGITAL, where, artwork(), frame=Frame(256, whole=True))
    assert sorted(torch.cat([window.rows for window in made]).tolist()) == list(range(48))
    assert len(made) <= 4
    side = 256 / CANVAS * 0.72 * 12 * 420 / SIGN_MM  # of an artwork, px
    assert max(window.height * window.width for window in made) < 4 * side**2


@pytest.mark.slow
def test_the_cost_of_a_sign_does_not_grow_with_the_photograph() -> None:
    """16 times the pixels, the same signs: a canvas per box costs about as much more, a window does not."""
    single = case(1, side_px=96, images=2)
    same = [apply(single.signs.artwork, single) for apply in (windows, canvases)]
    torch.testing.assert_close(*same, atol=1e-5, rtol=0)
    (small, small_canvas), (large, large_canvas) = (
        compared(case(12, side_px=side, images=2), rounds=5) for side in (96, 384)
    )
    assert large < 5 * small
    assert large_canvas > 5 * small_canvas
    assert large < large_canvas / 5


def test_staged_signs_have_windows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Windows] = []
    real = paste._windows
    monkeypatch.setattr(paste, "_windows", lambda signs, size: made.extend(found := real(signs, size)) or found)
    photographs(World("far", (Stages(view=(Pinhole((4.0, 4.0)),)),)), staged(8), artwork())
    assert sum(len(window.rows) for window in made) == 8
    assert max(window.height * window.width for window in made) < SIZE**2 / 10


def test_an_artwork_out_of_sight_changes_nothing() -> None:
    where = street()
    away = artwork(place=PLACE + 50_000)
    for world in (PHYSICAL, DIGITAL):
        assert torch.equal(photographs(world, where, away), photographs(world, where, None))


def test_far_signs_see_a_coarser_artwork() -> None:
    """A fine chequerboard is its mean on small signs and on large ones alike: each is sampled from its own level."""
    board = (torch.arange(128)[:, None] + torch.arange(128)) % 2
    fine = Artwork(board.float().expand(1, 3, -1, -1), torch.ones(1, 1, 128, 128), PLACE)
    grey = replace(fine, rgb=torch.full((1, 3, 128, 128), float(to_srgb(torch.tensor(0.5)))))
    where = replace(street((1, 24)), extent_px=torch.full((2, 2), float(CANVAS)))
    torch.testing.assert_close(photographs(DIGITAL, where, fine), photographs(DIGITAL, where, grey), atol=0.02, rtol=0)
    pooled = adaptive_avg_pool2d(to_linear(fine.rgb), 8)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 0.5))


# --- which signs wear it ---------------------------------------------------------------------------------------------


def changed(world: World, where: Scenes, art: Artwork) -> Tensor:
    """px of the views that the artwork changes."""
    return (photographs(world, where, art) - photographs(world, where, None)).abs().amax(1) > 0


def test_only_worn_signs_change() -> None:
    worn = torch.arange(28) % 3 == 0
    where = street(worn=worn)
    boxes = POSES.seen(where, POSES.draw(range(4), seed=11), frame=FRAME)
    found = changed(POSES, where, artwork())
    centre = (boxes.box[:, :2] + boxes.box[:, 2:]) / 2
    at = found[boxes.image, centre[:, 1].long(), centre[:, 0].long()]
    assert torch.equal(at, boxes.worn)
    allowed = torch.zeros_like(found)
    for image, box in zip(boxes.image[boxes.worn], boxes.box[boxes.worn], strict=True):
        x1, y1, x2, y2 = (int(edge) for edge in (*(box[:2] - 2).clamp(min=0), *(box[2:] + 3)))
        allowed[image, y1:y2, x1:x2] = True
    assert not (found & ~allowed).any()


def test_which_sign_wears_it_is_all_that_matters() -> None:
    """The photograph with sign 1 worn differs from that with sign 2 worn only in where the artwork is: they add up."""
    alone = [street((3,), worn=torch.arange(3) == sign) for sign in range(3)]
    clean = photographs(POSES, alone[0], None)
    each = [photographs(POSES, where, artwork()) - clean for where in alone]
    together = photographs(POSES, street((3,)), artwork()) - clean
    torch.testing.assert_close(together, sum(each), atol=1e-6, rtol=0)


@pytest.mark.parametrize("world", [PHYSICAL, load_world("drive-by"), DIGITAL], ids=["physical", "drive-by", "digital"])
def test_photographs_in_which_nothing_wears_it_stay_as_they_are(world: World) -> None:
    worn = torch.arange(28) < 4  # of the first three photographs
    found = changed(world, street(worn=worn), artwork()).flatten(1).any(1)
    assert found.tolist() == [False, True, True, False]
    for where in (street(worn=torch.zeros(28, dtype=torch.bool)), street((0, 0))):
        art = artwork()
        theta = art.rgb.requires_grad_()
        assert torch.equal(photographs(world, where, replace(art, rgb=theta)), photographs(world, where, None))
        assert not where.wearing.any()


def test_every_photograph_can_have_an_artwork_and_a_place_of_its_own() -> None:
    where, many = street(), artwork(4, seed=22)
    many = many.at(PLACE + 30 * torch.arange(4)[:, None])
    together = photographs(PHYSICAL, where, many)
    for view in range(4):
        alone = photographs(PHYSICAL, where.take(row(view)), many.take(row(view)), first=view)
        torch.testing.assert_close(alone[0], together[view], atol=1e-5, rtol=0)


# --- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [street(), staged()], ids=["street", "staged"])
def test_photographs_do_not_depend_on_the_batch(where: Scenes) -> None:
    whole, seen = photographs(PHYSICAL, where, artwork()), PHYSICAL.seen
    boxes = seen(where, PHYSICAL.draw(range(4), seed=11), frame=FRAME)
    assert torch.equal(whole, photographs(PHYSICAL, where, artwork()))
    assert not torch.allclose(whole, photographs(PHYSICAL, where, artwork(), seed=12), atol=1e-3)
    for first, last in ((0, 1), (1, 4), (3, 4)):
        rows = torch.arange(first, last)
        part = photographs(PHYSICAL, where.take(rows), artwork(), first=first)
        torch.testing.assert_close(part, whole[rows], atol=1e-5, rtol=0)
        some = seen(where.take(rows), PHYSICAL.draw(range(first, last), seed=11), frame=FRAME)
        there = (boxes.image >= first) & (boxes.image < last)
        assert torch.equal(some.image + first, boxes.image[there])
        torch.testing.assert_close(some.box, boxes.box[there], atol=1e-4, rtol=0)


def test_repeated_photographs_keep_their_signs() -> None:
    where = street(worn=torch.arange(28) % 2 == 0)
    rows = torch.tensor([3, 1, 1, 0, 2, 3])
    some = where.take(rows)
    assert torch.bincount(some.of, minlength=6).tolist() == [24, 1, 1, 0, 3, 24]
    assert some.names == tuple(where.names[index] for index in rows)
    for view, index in enumerate(rows.tolist()):
        mine, own = some.of == view, where.of == index
        for name in ("surface", "face", "labels", "gain", "bias", "worn"):
            assert torch.equal(getattr(some, name)[mine], getattr(where, name)[own])
    together = photographs(DIGITAL, some, artwork())
    torch.testing.assert_close(together, photographs(DIGITAL, where, artwork())[rows], atol=1e-5, rtol=0)
    assert torch.equal(some.wearing, where.wearing[rows])


# --- where the signs are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [street((0, 1, 3, 5)), staged()], ids=["street", "staged"])
def test_signs_are_seen_where_something_as_large_lights_up(where: Scenes) -> None:
    frame = Frame(256, whole=True)
    whole = Artwork(torch.ones(1, 3, 32, 32), faces().images[:1, 3:], torch.tensor([[0.0, 0.0, SIGN_MM, SIGN_MM]]))
    world = POSES if where.staged is False else World("near", (replace(Stages(), view=STAGES.view),))
    views = world.draw(range(4), seed=11)
    seen = world.seen(where, views, frame=frame)
    assert len(seen) >= 4
    for sign in range(len(seen)):
        alone = seen.take(torch.arange(len(seen)) == sign)
        view, box = int(alone.image), alone.box[0].tolist()
        which = (where.of == view).nonzero()[sum(seen.image[:sign] == view)]
        face = int(where.face[which])
        shape = replace(whole, alpha=faces().images[face : face + 1, 3:])
        only = replace(where, worn=torch.arange(len(where.face)) == which)
        light, dark = (
            world.photograph(replace(shape, rgb=value * shape.rgb), only, views, frame=frame) for value in (1, 0)
        )
        lit = (to_linear(light[view]) - to_linear(dark[view])).amax(0)
        y, x = (lit > 0.5 * lit.max()).nonzero().unbind(1)
        found = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
        assert found == pytest.approx(box, abs=1.6)


def test_boxes_are_clipped_and_signs_mostly_out_of_view_left_out() -> None:
    shown = [
        (20.0, 20.0, [20.0, 20.0, 40.0, 40.0]),
        (-8.0, 30.0, [0.0, 30.0, 12.0, 50.0]),  # 60 % in view
        (-11.0, 60.0, None),  # 45 % in view
        (70.0, 5.0, [70.0, 5.0, 80.0, 25.0]),  # 50 %
        (72.0, 5.0, None),
        (30.0, 71.0, None),  # of 80 rows: 45 %
        (30.0, 68.0, [30.0, 68.0, 50.0, 80.0]),
        (-400.0, 5.0, None),
        (30.0, 900.0, None),
    ]
    surface = torch.stack(
        [torch.tensor([[20 / SIGN_MM, 0, x], [0, 20 / SIGN_MM, y], [0, 0, 1.0]]) for x, y, _ in shown]
    )
    where = replace(street((0, len(shown))), surface=surface, face=torch.ones(len(shown), dtype=torch.long))
    where = replace(where, extent_px=torch.tensor([[80.0, 60.0]] * 2))
    seen = DIGITAL.seen(where, DIGITAL.draw([0, 1], seed=0), frame=Frame(40, whole=True))
    boxes = torch.tensor([box for _, _, box in shown if box])
    assert seen.image.tolist() == [1] * len(boxes)
    torch.testing.assert_close(seen.box, boxes / 2, atol=1e-3, rtol=0)


def test_signs_of_a_mixture_are_in_the_order_of_the_photographs() -> None:
    world = World("two", (STAGES, Stages(view=STAGES.view)))
    where, views = street((2, 1, 3, 0, 2)), world.draw(range(5), seed=11)
    seen = world.seen(where, views, frame=FRAME)
    assert seen.image.tolist() == [0, 0, 1, 2, 2, 2, 4, 4]
    for view in (0, 1, 2, 4):
        alone = world.seen(where.take(row(view)), world.draw([view], seed=11), frame=FRAME)
        torch.testing.assert_close(alone.box, seen.box[seen.image == view], atol=1e-4, rtol=0)


# --- what does not go together ----------------------------------------------------------------------------------------


def test_single_signs_are_no_whole_photographs() -> None:
    cut = replace(street((1, 1)), extent_px=None, photograph=None, worn=None)
    with pytest.raises(UserError, match="whole photographs"):
        photographs(DIGITAL, cut, None)
    with pytest.raises(UserError, match="single signs"):
        photographs(DIGITAL, street(), None, frame=Frame(SIZE, 0.1))


def test_a_drawn_sign_stands_whole_in_the_frame() -> None:
    where, world = load_scenes("staged:stop", street_px=SIZE), load_world("drive-by")
    views = world.draw(range(16), seed=1)
    seen = world.seen(where.take(torch.zeros(16, dtype=torch.long)), views, frame=FRAME)
    fits = (seen.box[:, 2:] - seen.box[:, :2]).amax(1) < SIZE - 1
    assert fits.sum() > 10
    assert (seen.box[fits] >= -1e-3).all()
    assert (seen.box[fits] <= SIZE + 1e-3).all()
    middle = (seen.box[:, :2] + seen.box[:, 2:]) / 2
    assert (middle.std(0) > SIZE / 8).all(), "anywhere in it"
