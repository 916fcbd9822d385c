"""Every short cut beside the long way: curves, noise, blur, recording and its slope, windows, JPEG."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from physadv.bench.case import case_of, size_of
from physadv.targets.base import Frame
from physadv.threats.base import Artwork
from physadv.transforms import exposure
from physadv.transforms.camera import Jpeg, Noise, Tone, recode_
from physadv.transforms.colour import to_linear, to_srgb
from physadv.transforms.develop import Camera, record
from physadv.transforms.optics import blur_matrices, blur_of, separable
from physadv.transforms.texture import noise_cuts, white_noise
from physadv.transforms.warp import pixel_grid, project, pull_grid, pyramid, sample_levels, sample_pyramid

SIZE = 40


def noise(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- curves


def slow_srgb(linear: Tensor) -> Tensor:
    """IEC 61966-2-1, in double precision."""
    linear = linear.double()
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055)


def test_curves_are_those_of_the_standard_on_both_sides_of_the_knee():
    values = torch.cat([torch.linspace(0, 1, 4001), torch.linspace(0, 0.006, 4001), torch.linspace(0.03, 0.05, 4001)])
    torch.testing.assert_close(to_srgb(values).double(), slow_srgb(values), atol=3e-7, rtol=0)
    torch.testing.assert_close(to_linear(slow_srgb(values)), values.double(), atol=3e-7, rtol=0)
    assert to_srgb(values).min() >= 0
    assert to_srgb(values).max() <= 1


def test_curves_have_the_slope_of_the_standard():
    values = torch.cat([torch.linspace(1e-4, 0.0031, 50), torch.linspace(0.0032, 1, 500)]).double().requires_grad_()
    (ours,) = torch.autograd.grad(to_srgb(values).sum(), values)
    (slow,) = torch.autograd.grad(slow_srgb(values).sum(), values)
    torch.testing.assert_close(ours, slow, atol=1e-4, rtol=1e-5)
    (there_and_back,) = torch.autograd.grad(to_linear(to_srgb(values)).sum(), values)
    torch.testing.assert_close(there_and_back, torch.ones_like(values), atol=1e-6, rtol=0)


# --- noise


@pytest.mark.parametrize("window", [(0, 0, SIZE, SIZE), (7, 11, 12, 20)])
def test_noise_is_cut_where_the_gathered_one_is(window: tuple[int, int, int, int]):
    top, left, height, width = window
    place = torch.tensor([[0.1, 0.2], [0.999, 0.999], [1.0, 0.0], [0.5, 0.98]])
    whole = white_noise(place, SIZE, SIZE)[:, :, top : top + height, left : left + width]
    cuts = noise_cuts(place, [top] * 4, [left] * 4, height, width)
    assert torch.equal(torch.stack([*cuts]), whole)


def test_frames_beyond_the_tile_repeat_it():
    place = torch.tensor([[0.9, 0.3]])
    assert torch.equal(next(noise_cuts(place, [0], [0], 5, 2500)), white_noise(place, 5, 2500)[0])


# --- blur


HALO = torch.tensor([[0.0, 1.0], [1.5, 0.6], [0.7, 2.0]])


@pytest.mark.parametrize("halo", [None, HALO], ids=["plain", "sharpened"])
@pytest.mark.parametrize("size", [24, 200], ids=["dense", "shifted"])
def test_blur_by_taps_is_blur_by_matrices(size: int, halo: Tensor | None):
    spread = torch.tensor([[0.0, 0, 0, 0], [1.5, 0.3, 2.0, 0.0], [4.0, 1.0, 0.0, 3.0]])
    images = noise(3, 3, size, size)
    slow = separable(images, *blur_matrices(spread, size, size, halo=halo))
    torch.testing.assert_close(blur_of(spread, size, size, halo=halo).whole(images), slow, atol=2e-6, rtol=0)


@pytest.mark.parametrize("halo", [None, HALO[1:]], ids=["plain", "sharpened"])
@pytest.mark.parametrize("corner", [(0, 0), (9, 4), (26, 30)])
def test_a_patch_behind_the_lens_is_the_blurred_frame_with_the_patch(corner: tuple[int, int], halo: Tensor | None):
    spread = torch.tensor([[1.0, 2.0, 0.0, 1.0], [0.2, 0.0, 1.5, 0.0]])
    patch, frame = noise(2, 3, 14, 10), torch.zeros(2, 3, SIZE, SIZE)
    top, left = corner
    frame[:, :, top : top + 14, left : left + 10] = patch
    slow = separable(frame, *blur_matrices(spread, SIZE, SIZE, halo=halo))
    where = torch.full((2,), top), torch.full((2,), left)
    start = torch.zeros(2, dtype=torch.long)
    seen = blur_of(spread, SIZE, SIZE, halo=halo).window(patch, *where, to=(start, start, SIZE, SIZE))
    torch.testing.assert_close(seen, slow, atol=2e-6, rtol=0)


# --- the camera


def slow_record(light: Tensor, noises: dict, tones: dict, share: Tensor) -> Tensor:
    seen = Noise().add(light, noises, share)
    return Tone().apply(to_srgb(seen.clamp(0, 1)), tones)


@pytest.mark.parametrize("contrast", [0.3, 0.9], ids=["mild", "overshooting"])
def test_recording_is_noise_curve_and_tone_and_its_slope_is_autograds(contrast: float):
    light = noise(3, 3, SIZE, SIZE, low=-0.1, high=1.2).requires_grad_()
    noises = {"shot": torch.tensor([0.0, 0.003, 0.01]), "read": torch.tensor([0.0, 0.01, 0.02])}
    noises["place"] = noise(3, 2, seed=1)
    tones = {"gamma": torch.tensor([0.4, -0.2, 0.0]), "contrast": torch.tensor([contrast, -0.1, 0.0])}
    share = torch.tensor([1.0, 0.5, 0.2])
    slow = slow_record(light, noises, tones, share)
    (expected,) = torch.autograd.grad(slow.sum(), light)
    camera = Camera((noises,), (tones,), (), share)
    none = [0, 0, 0]
    picture, slope = record(light.detach().clone(), camera, none, none, slope=True)
    torch.testing.assert_close(picture, slow.detach(), atol=1e-6, rtol=0)
    assert slope is not None
    torch.testing.assert_close(slope, expected, atol=2e-4, rtol=1e-4)
    assert record(light.detach().clone(), camera, none, none, slope=False)[1] is None


def slow_jpeg(images: Tensor, quality: Tensor) -> Tensor:
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()[..., ::-1]
    coded = [
        cv2.imdecode(cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, int(q)])[1], cv2.IMREAD_COLOR)
        for one, q in zip(np.ascontiguousarray(pixels), quality.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(coded)[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255


def test_jpeg_by_planes_is_jpeg_by_pixels():
    images, quality = noise(3, 3, 21, 34, low=-0.2, high=1.2), torch.tensor([30.0, 75.0, 100.0])
    assert torch.equal(recode_(images.clamp(0, 1), quality), slow_jpeg(images, quality))
    assert torch.allclose(Jpeg().apply(images, {"quality": quality}), slow_jpeg(images, quality), atol=1e-6)


# --- grids and pictures


def test_a_grid_by_rows_and_columns_is_every_point_through_the_homography():
    matrix = torch.eye(3).repeat(2, 1, 1) + noise(2, 3, 3, low=-0.01, high=0.01)
    top, left = torch.tensor([3, 0]), torch.tensor([1, 9])
    seen = pull_grid(matrix, top, left, 6, 8)
    for row in range(2):
        points = pixel_grid(int(top[row]), int(left[row]), 6, 8, device=matrix.device)
        torch.testing.assert_close(
            seen[row].reshape(1, -1, 2), project(matrix[row : row + 1], points), atol=1e-5, rtol=0
        )


def test_sampling_does_not_depend_on_whether_a_gradient_is_wanted():
    images = noise(3, 2, 16, 16)
    points, level = noise(5, 30, 2), torch.tensor([0, 2, 1, 0, 1])
    source = torch.tensor([2, 0, 0, 1, 2])
    levels = pyramid(images, levels=2)
    free = sample_pyramid(levels, points, level, height=5, width=6, source=source)
    held = sample_pyramid(pyramid(images.requires_grad_(), levels=2), points, level, height=5, width=6, source=source)
    torch.testing.assert_close(free, held.detach())
    for row in range(5):
        which = slice(row, row + 1)
        grid = (2 * points[which] - 1).reshape(1, 5, 6, 2)
        one = sample_levels([part[source[which]] for part in levels], grid, level[which])
        torch.testing.assert_close(free[which], one)


# --- the whole


@pytest.mark.parametrize("most", [0.0, 2.0], ids=["at once", "apart"])
def test_a_window_recorded_apart_is_the_frame_recorded_at_once(most: float, monkeypatch: pytest.MonkeyPatch):
    case = case_of(size_of("cnn-64"), seed=0, device="cpu", batch=4)
    problem = case.problem
    views = case.draw(problem.world, 3)
    shots = problem.world.prepare(case.scenes(), views, frame=problem.target.frame)
    pull, found = noise(4, 3, 64, 64), []
    for share in (0.5, most):
        monkeypatch.setattr(exposure, "_MOST", share)
        theta = problem.init(restart=0).requires_grad_()
        images = shots.photograph(problem.threat.artwork(theta))
        found.append((images.detach(), torch.autograd.grad(images, theta, pull)[0]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("together", [1, 2**30])
def test_photographs_do_not_depend_on_how_many_are_made_together(together: int, monkeypatch: pytest.MonkeyPatch):
    case = case_of(size_of("cnn-64"), seed=0, device="cpu", batch=5)
    problem = case.problem
    worn: Artwork = problem.threat.artwork(problem.init(restart=0))
    views = case.draw(problem.world, 1)
    seen = problem.world.photograph(worn, case.scenes(), views, frame=Frame(48, 0.1))
    monkeypatch.setattr(exposure, "_TOGETHER", together)
    again = problem.world.photograph(worn, case.scenes(), views, frame=Frame(48, 0.1))
    assert (again - seen).abs().mean() < 1e-4, "rounding may move a byte before JPEG, and no more"
