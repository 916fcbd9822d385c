"""A printer's ICC profile: artworks in the printer's own colours, as they will look, and what it cannot print."""

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageCms

from physadv.errors import UserError
from physadv.files import existing_file, sha256

INTENTS = {intent.name.split("_")[0].lower(): intent for intent in ImageCms.Intent}  # perceptual, relative, ...
MODES = {"RGB": "RGB", "CMYK": "CMYK"}  # colour space of the profile -> Pillow's mode
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GAMUT_TOLERANCE = 3.0  # CIEDE2000 from which a colour that was asked for counts as missed


@dataclass(frozen=True)
class Inks:
    """A printer's profile, the intent by which sRGB is fitted into it, and the mode of its pixels."""

    name: str
    profile: bytes
    intent: str
    mode: str

    @property
    def hash(self) -> str:
        return sha256(self.profile)

    def convert(self, image: Image.Image) -> Image.Image:
        """sRGB -> the printer's numbers; with the relative intent, black goes to the printer's black."""
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION if self.intent == "relative" else ImageCms.Flags.NONE
        converted = _apply(image, _transform(SRGB, "RGB", self.profile, self.mode, INTENTS[self.intent], flags))
        converted.info["icc_profile"] = self.profile
        return converted

    def seen(self, printed: Image.Image) -> Image.Image:
        """The printer's numbers -> what the print looks like, sRGB: its black as it is, its paper taken as white."""
        relative, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.NONE
        return _apply(printed, _transform(self.profile, self.mode, SRGB, "RGB", relative, flags))

    def out_of_gamut(self, rgb: UInt8[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Which sRGB colours even the nearest printable one misses by more than 3 CIEDE2000, paper taken as white."""
        from physadv.calibration.difference import difference, linear  # noqa: PLC0415 (calibration reads sheets)

        colours, rows = np.unique(rgb, axis=0, return_inverse=True)
        nearest, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.NONE
        to_printer = _transform(SRGB, "RGB", self.profile, self.mode, nearest, flags)
        printed = np.asarray(self.seen(_apply(Image.fromarray(colours[None]), to_printer)))[0]
        missed = difference(linear(colours / 255), linear(printed / 255)) > GAMUT_TOLERANCE
        return missed[rows.reshape(-1)]


def load_inks(path: Path, *, intent: str = "relative") -> Inks:
    """The ICC profile of an RGB or CMYK printer.

    Raises:
        UserError: no such intent, or the file is no profile that colours can be converted into.
    """
    if intent not in INTENTS:
        raise UserError(f"There is no rendering intent {intent!r}: use {', '.join(INTENTS)}.")
    content = existing_file(path).read_bytes()
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content)).profile
        space = profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError) as error:
        raise UserError(f"{path} is no ICC profile: give the .icc or .icm file of printer and paper.") from error
    if space not in MODES or profile.device_class not in ("prtr", "mntr", "spac"):
        raise UserError(f"{path} describes no RGB or CMYK printer: give the profile of printer and paper.")
    inks = Inks(path.name, content, intent, MODES[space])
    try:
        inks.seen(inks.convert(Image.new("RGB", (1, 1))))
    except ImageCms.PyCMSError as error:
        raise UserError(f"{path} cannot convert colours in both directions: give the profile of a printer.") from error
    return inks


def plain(image: Image.Image) -> Image.Image:
    """sRGB pixels as they are, named so."""
    image.info["icc_profile"] = SRGB
    return image


@cache
def _transform(
    source: bytes, source_mode: str, target: bytes, target_mode: str, intent: ImageCms.Intent, flags: ImageCms.Flags
) -> ImageCms.ImageCmsTransform:
    one, other = (ImageCms.ImageCmsProfile(io.BytesIO(content)) for content in (source, target))
    return ImageCms.buildTransform(one, other, source_mode, target_mode, intent, flags)


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted
