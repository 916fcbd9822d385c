"""A sheet that hangs whole on the sign: the paper round the artwork, and what its strip tells of a photograph."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from physadv.calibration.difference import difference, encoded
from physadv.calibration.fit import Camera, PrintMap, fit_camera
from physadv.calibration.strip import Strip
from physadv.capture.layout import Layout
from physadv.capture.measure import Light, Print
from physadv.capture.photos import Photo
from physadv.capture.tags import FAMILIES
from physadv.errors import UserError
from physadv.threats import Artwork
from physadv.transforms.print import MONOMIALS, monomials

TEXELS = 4096  # of the artwork, at most, whose colours a response is fitted to
TRUSTED = 12  # patches that are not clipped: half of the strip
DOUBTFUL = 8.0  # CIEDE2000 that the camera leaves on its strip: of another printer, or of something that is no strip
WORTH = 200.0  # independent px that they count for


@dataclass(frozen=True)
class Printed:
    """A profile's print map, and the strip of the sheet that came from that printer."""

    strip: Strip
    print_map: PrintMap

    def camera(self, photo: Photo) -> Camera | None:
        """Paper-relative reflectance -> linear light of the photograph; None: no strip, a small or a doubtful one."""
        try:
            reading = self.strip.read(photo.pixels, name=photo.name)
        except UserError:
            return None
        told = ~reading.clipped
        if told.sum() < TRUSTED:
            return None
        reflectance = self.print_map(self.strip.chart.srgb)
        camera = fit_camera(reflectance, reading.mean, reading.clipped)
        left = difference(np.maximum(camera(reflectance), 0)[told], reading.mean[told])
        return camera if left.mean() < DOUBTFUL else None

    def response(
        self, artwork: Artwork, camera: Camera, light: Light, prior: Float[Tensor, "3 11"]
    ) -> Float[Tensor, "3 11"]:
        """R of the colours c that hang there, in that light: R m(c) = (M print(c) + o − b) / g (capture/measure.py).

        By the strip alone: the artwork in the photograph is not looked at.
        """
        opaque = artwork.alpha[0, 0].cpu() > 0.5
        every = max(1, int(opaque.sum()) // TEXELS)
        srgb = artwork.rgb[0].cpu()[:, opaque][:, ::every]
        seen = torch.from_numpy(camera(self.print_map(srgb.T.double().numpy())))
        asked = (seen - light.bias.double()) / light.gain.double()
        terms = monomials(srgb[None, :, None], torch.ones(1, 1, 1, srgb.shape[1]))[0, :, 0].double()
        share = WORTH / srgb.shape[1]
        assert len(terms) == MONOMIALS
        return Print(share * terms @ terms.T, share * terms @ asked).response(prior)


def on_paper(artwork: Artwork, layout: Layout) -> Artwork:
    """The artwork with the white of its uncut sheet round it, its tags as grey squares; ruler and strip are left out.

    The paper's edges are moved to whole texels of the artwork.
    """
    assert layout.paper_mm is not None
    place = artwork.place_mm[0].double().cpu().numpy()
    height, width = artwork.rgb.shape[-2:]
    pitch_mm = (place[2:] - place[:2]) / (width, height)
    left, top = np.maximum(np.round((place[:2] - layout.paper_mm[:2]) / pitch_mm), 0).astype(int)
    right, bottom = np.maximum(np.round((np.array(layout.paper_mm[2:]) - place[2:]) / pitch_mm), 0).astype(int)
    white = torch.ones(3, height + top + bottom, width + left + right)
    origin_mm = place[:2] - pitch_mm * (left, top)
    for number, corners_mm in layout.corners_mm.items():
        (x0, y0), (x1, y1) = _texels([corners_mm.min(0), corners_mm.max(0)], origin_mm, pitch_mm)
        white[:, max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = tag_grey(layout.family, number)
    alpha = artwork.alpha[0].cpu()
    window = white[:, top : top + height, left : left + width]
    window.copy_(alpha * artwork.rgb[0].cpu() + (1 - alpha) * window)
    far_mm = origin_mm + pitch_mm * (white.shape[2], white.shape[1])
    box = torch.tensor(np.concatenate([origin_mm, far_mm]), dtype=torch.float32)[None]
    sheet = replace(artwork, rgb=white[None], alpha=torch.ones(1, 1, *white.shape[1:]), place_mm=box)
    return sheet.to(artwork.rgb.device)


@cache
def tag_grey(family: str, number: int) -> float:
    """sRGB of a tag from afar: of the light that its white modules send back."""
    dictionary, modules = FAMILIES[family]
    pattern = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(dictionary), number, modules)
    return encoded(pattern.mean(keepdims=True) / 255).item()


def _texels(
    points_mm: Sequence[Float[np.ndarray, "2"]], origin_mm: Float[np.ndarray, "2"], pitch_mm: Float[np.ndarray, "2"]
) -> list[list[int]]:
    return [np.round((point - origin_mm) / pitch_mm).astype(int).tolist() for point in points_mm]
