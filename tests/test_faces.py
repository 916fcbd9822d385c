"""Drawn sign faces: there, of the right shape and size, told apart, and the same as the stored files."""

from itertools import combinations
from math import pi, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from physadv.errors import UserError
from physadv.scenes.classes import GTSRB, class_index, shape_of
from physadv.scenes.faces import (
    RED,
    draw_face,
    faces_for,
    has_art,
    outline_from_alpha,
    read_face,
    shape_alpha,
    write_faces,
)

STORED = Path(__file__).parents[1] / "assets" / "faces"
DRAWN = tuple(name for name in GTSRB if has_art(name))
REQUIRED = {"stop", "yield", "priority-road", "no-entry", "danger", "turn-right", "keep-left", "roundabout"}
# Opaque share of the bounding box: exact for disc and octagon; for rounded corners of radius r on a polygon with
# n sides the corners take off n (tan(π/n) − π/n) r².
TRIANGLE_SIDE = 900 + 2 * (sqrt(3) - 1) * 45
SHARES = {
    "circle": pi / 4,
    "octagon": 2 * sqrt(2) - 2,
    "diamond": (600**2 - (4 - pi) * 30**2) / 823.7**2,
    "triangle": (sqrt(3) / 4 * TRIANGLE_SIDE**2 - (3 * sqrt(3) - pi) * 45**2) / (900 * 791.5),
}
SHARES["inverted-triangle"] = SHARES["triangle"]


def alpha_of(name: str, size_px: int = 256) -> np.ndarray:
    return np.asarray(draw_face(name, size_px=size_px))[..., 3] / 255


def test_43_classes_each_once_in_the_order_of_the_dataset() -> None:
    assert len(set(GTSRB)) == 43
    assert [GTSRB.index(name) for name in ("speed-limit-20", "priority-road", "stop", "roundabout")] == [0, 12, 14, 40]


@pytest.mark.parametrize(
    ("name", "shape", "width_mm"),
    [
        ("stop", "octagon", 900.0),
        ("yield", "inverted-triangle", 900.0),
        ("wild-animals", "triangle", 900.0),
        ("priority-at-next-intersection", "triangle", 900.0),
        ("end-of-limits", "circle", 600.0),
        ("priority-road", "diamond", 823.7),
    ],
)
def test_each_class_has_the_shape_and_size_it_has_on_the_road(name: str, shape: str, width_mm: float) -> None:
    assert (shape_of(name).name, shape_of(name).width_mm) == (shape, width_mm)


def test_a_misspelt_class_is_an_error_that_names_the_nearest_one() -> None:
    assert class_index("yield", GTSRB) == 13
    with pytest.raises(UserError, match="nearest one is 'speed-limit-50'"):
        class_index("speedlimit50", GTSRB)
    with pytest.raises(UserError, match="no class names"):
        class_index("stop", ())
    with pytest.raises(UserError, match="nearest one is 'stop'"):
        faces_for(["stopp"])


def test_most_classes_are_drawn_and_the_common_ones_all_are() -> None:
    limits = {name for name in GTSRB if name.startswith("speed-limit-")}
    assert len(DRAWN) >= 24
    assert REQUIRED | limits <= set(DRAWN)
    with pytest.raises(UserError, match="no drawn face"):
        draw_face("children")


@pytest.mark.parametrize("name", DRAWN)
def test_the_board_fills_its_raster_and_its_share_is_that_of_its_shape(name: str) -> None:
    alpha = alpha_of(name)
    assert alpha.mean() == pytest.approx(SHARES[shape_of(name).name], abs=0.008)
    assert min(alpha[0].max(), alpha[-1].max(), alpha[:, 0].max(), alpha[:, -1].max()) > 0.5


def test_proportions_are_true_in_the_picture_and_in_mm_in_faces() -> None:
    assert draw_face("danger").size == (256, 225)
    faces = faces_for(["danger", "stop"], size_px=64)
    assert faces.images.shape == (2, 4, 64, 64)
    torch.testing.assert_close(faces.size_mm, torch.tensor([[900.0, 791.5], [900.0, 900.0]]))
    smaller = faces_for(["danger"], size_px=64, face_mm=450.0)
    torch.testing.assert_close(smaller.size_mm, faces.size_mm[:1] / 2)
    torch.testing.assert_close(smaller.outline_mm, faces.outline_mm[:1] / 2)


def test_an_inverted_triangle_is_a_triangle_upside_down() -> None:
    up, down = (np.asarray(shape_alpha(name, size_px=128)) for name in ("triangle", "inverted-triangle"))
    assert up[-3].mean() > 5 * up[3].mean()
    assert np.abs(up[::-1].astype(int) - down).mean() < 2


def test_faces_differ_from_each_other() -> None:
    images = faces_for(DRAWN, size_px=48).images
    for one, other in combinations(range(len(DRAWN)), 2):
        assert (images[one] - images[other]).abs().mean() > 0.004, (DRAWN[one], DRAWN[other])


def test_left_and_right_are_mirror_images_the_right_way_round() -> None:
    for left, right in (("turn-left", "turn-right"), ("keep-left", "keep-right"), ("curve-left", "curve-right")):
        images = faces_for([left, right], size_px=96).images
        assert (images[0].flip(-1) - images[1]).abs().mean() < 0.01
    ink = faces_for(["turn-right"], size_px=96).images[0, 0] > 0.5
    upper = ink[20:50]
    assert upper[:, 60:90].sum() > 2 * upper[:, 6:36].sum()


def test_edges_are_not_darkened_by_what_lies_outside_the_sign() -> None:
    rgba = np.asarray(draw_face("stop", size_px=64)).astype(int)
    edge = rgba[(rgba[..., 3] > 0) & (rgba[..., 3] < 255)]
    assert edge[:, :3].min() > 200  # the white rim's colour, at every alpha


def test_every_class_has_a_face_and_those_without_art_are_a_grey_board() -> None:
    faces = faces_for(GTSRB, size_px=32)
    assert faces.names == GTSRB
    row = GTSRB.index("children")
    inside = faces.images[row, :3, 20, 16]
    torch.testing.assert_close(inside, torch.full((3,), 0.5), atol=0.003, rtol=0)
    assert faces.images[row, 3].mean() == pytest.approx(SHARES["triangle"], abs=0.03)


@pytest.mark.parametrize("name", ["stop", "yield", "danger", "priority-road", "no-entry"])
def test_outline_points_lie_on_the_edge_of_alpha_and_span_the_sign(name: str) -> None:
    faces = faces_for([name], size_px=128)
    opaque = faces.images[0, 3] >= 0.5
    points_px = faces.outline_mm[0] / faces.size_mm[0] * 128
    ring = torch.nn.functional.max_pool2d((~opaque).float()[None, None], 5, stride=1, padding=2)[0, 0] > 0
    ring[[0, 1, -2, -1]] = ring[:, [0, 1, -2, -1]] = True  # the raster's own edge
    x, y = points_px.clamp(0, 127.5).floor().long().T
    assert ring[y, x].all()
    near = torch.nn.functional.max_pool2d(opaque.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
    assert near[y, x].all()
    torch.testing.assert_close(points_px.amin(0), torch.zeros(2), atol=1.0, rtol=0)
    torch.testing.assert_close(points_px.amax(0), torch.full((2,), 128.0), atol=1.0, rtol=0)


def test_outline_of_a_disc_is_a_circle_in_mm() -> None:
    from_centre = faces_for(["no-vehicles"], size_px=128).outline_mm[0] - 300
    angles = torch.arange(32) * (pi / 16)
    outward = torch.stack([angles.cos(), angles.sin()], dim=1)
    half_px = 0.5 * 600 / 128
    torch.testing.assert_close(from_centre.norm(dim=1), torch.full((32,), 300.0), atol=1.5 * half_px, rtol=0)
    torch.testing.assert_close((from_centre * outward).sum(1), torch.full((32,), 300.0), atol=1.5 * half_px, rtol=0)


def test_outline_of_any_alpha_is_the_box_of_its_opaque_part() -> None:
    alpha = torch.zeros(40, 80)
    alpha[10:30, 20:70] = 1.0
    alpha[:, 75:] = 0.4
    outline = outline_from_alpha(alpha, torch.tensor([160.0, 160.0]))
    assert outline.shape == (32, 2)
    torch.testing.assert_close(outline.amin(0), torch.tensor([40.0, 40.0]))
    torch.testing.assert_close(outline.amax(0), torch.tensor([140.0, 120.0]))


def test_a_users_face_is_read_with_its_own_alpha_and_proportions(tmp_path: Path) -> None:
    draw_face("yield", size_px=200).save(tmp_path / "mine.png")
    faces = read_face(tmp_path / "mine.png", name="yield", face_mm=None, size_px=96)
    drawn = faces_for(["yield"], size_px=96)
    torch.testing.assert_close(faces.size_mm, drawn.size_mm, atol=3.0, rtol=0)
    assert (faces.images - drawn.images).abs().mean() < 0.02
    outside = faces.images[0, :3, 80, 5]
    assert outside.min() > 0.8  # the white rim's colour, not the black that transparent pixels hold


def test_a_picture_without_alpha_is_opaque_and_takes_the_given_width(tmp_path: Path) -> None:
    Image.new("RGB", (60, 30), RED).save(tmp_path / "poster.png")
    faces = read_face(tmp_path / "poster.png", name="poster", face_mm=300.0, size_px=32)
    assert faces.names == ("poster",)
    assert faces.area_mm2.item() == pytest.approx(300 * 150)
    assert faces.images[0, :3, 16, 16].mul(255).round().tolist() == list(RED)


def test_a_face_of_unknown_width_or_without_any_opaque_part_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (60, 30)).save(tmp_path / "poster.png")
    with pytest.raises(UserError, match="--face-mm"):
        read_face(tmp_path / "poster.png", name="poster", face_mm=None, size_px=32)
    Image.new("RGBA", (60, 30)).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="transparent everywhere"):
        read_face(tmp_path / "empty.png", name="stop", face_mm=None, size_px=32)


def test_the_stored_files_are_what_the_code_draws(tmp_path: Path) -> None:
    written = write_faces(tmp_path / "faces")
    assert {path.name for path in written} == {path.name for path in STORED.glob("*.png")}
    for path in written:
        with Image.open(path) as new, Image.open(STORED / path.name) as stored:
            difference = np.asarray(new, dtype=float) - np.asarray(stored, dtype=float)
        # Another Pillow may round an edge pixel otherwise; a stroke moved by one pixel gives several times this.
        assert np.abs(difference).mean() < 0.15, path.name
    assert sum(path.stat().st_size for path in STORED.glob("*.png")) < 400_000
