"""`physadv worlds fit`: a world of one printer and of the light and cameras that photographed its chart."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, cast

import numpy as np
import torch
import yaml
from jaxtyping import Float

from physadv.calibration.difference import difference, linear
from physadv.calibration.profile import Profile, Shot
from physadv.errors import UserError
from physadv.transforms.base import Range
from physadv.transforms.camera import Balance, Defocus, Noise, Tone
from physadv.transforms.colour import planckian_gain, saturation_matrix
from physadv.transforms.light import Exposure, Temperature, Veil
from physadv.transforms.print import Ink, monomials
from physadv.transforms.stages import FAMILIES, Stages
from physadv.transforms.world import World

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_PAPER = 0.75  # reflectance of office paper: a photograph alone cannot tell bright paper from a long exposure
_KELVIN = np.arange(3000, 15001, 50)
_SATURATION = np.linspace(0.3, 2, 69)
_CUBE = np.array(list(product((0.0, 0.25, 0.5, 0.75, 1.0), repeat=3)))
_PRIMARY = ((_CUBE == 0) | (_CUBE == 1)).all(1)
_OFTEN = 20  # a primary counts as that many other colours: searched artworks are mostly made of them
_JITTER_MAX = 0.3


@dataclass(frozen=True)
class Lights:
    """Every photograph as the world's parameters: stops and kelvin of paper, stray light, balance, saturation."""

    stops: Float[np.ndarray, " k"]
    kelvin: Float[np.ndarray, " k"]
    balance: float
    saturation: Float[np.ndarray, " k"]
    veil: Float[np.ndarray, " k"]


@dataclass(frozen=True)
class InkFit:
    """The printer of the world that comes nearest to a print map, and by how much it misses, in CIEDE2000.

    plain: what a display's colours would miss by.
    """

    ink: Ink
    error: float
    plain: float


def fit_world(profile: Profile, base: World, *, name: str) -> tuple[World, InkFit]:
    """`base` with everything that the profile measures in place of its own: print, light and camera.

    With one photograph only the printer, noise and blur are known; light and white balance stay those of `base`.
    Errors: UserError if the base is a mixture or reserved.
    """
    if len(base.components) != 1 or base.reserved:
        raise UserError(f"The world {base.name!r} is a mixture or only judges; fit to a plain one, such as drive-by.")
    reflectance = profile.table(_CUBE)
    fit = fit_ink(reflectance)
    measured: list[Any] = [fit.ink, *_sensors(base.components[0], profile.shots)]
    if len(profile.shots) > 1:
        measured += _light(base.components[0], lights_of(profile.shots))
    where = f"{len(profile.shots)} photographs of {profile.fitted_on.get('chart', 'a chart')}"
    note = f"{base.name} with printer, light and camera of {where}."
    return World(name, (replaced(base.components[0], measured),), note), fit


def lights_of(shots: Sequence[Shot]) -> Lights:
    """What light and camera did to paper in every photograph.

    With E the light and v the share of stray light in the world's words (transforms/light.py), paper shows
    E ((1 − v) 0.75 t + v), t the black body's tint, of luminance 1. Stray light E v is the camera's offset. It and
    saturation are relative to the mean photograph, whose gloss and rendering the print map holds; less stray light
    than that counts as none.
    """
    stray = np.maximum([shot.camera.offset @ _LUMINANCE for shot in shots], 0)
    paper = np.stack([shot.paper for shot in shots]) - stray[:, None]
    own = np.maximum(paper @ _LUMINANCE, 1e-6)
    kelvin, rest = temperatures(paper / own[:, None])
    light = own / _PAPER + stray
    saturation = np.array([_saturation(shot) for shot in shots])
    balance = float(np.sqrt(3 * (rest**2).mean()))
    return Lights(np.log2(light), kelvin, balance, saturation, np.minimum(stray / light, 0.5))


def temperatures(tint: Float[np.ndarray, "k 3"]) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k 3"]]:
    """Kelvin of the nearest black body, and what it leaves, in stops per channel."""
    bodies = planckian_gain(torch.from_numpy(_KELVIN).float()).numpy().astype(float)
    apart = np.log2(np.maximum(tint, 1e-6))[:, None] - np.log2(bodies)[None]
    best = (apart**2).sum(2).argmin(1)
    return _KELVIN[best].astype(float), apart[np.arange(len(tint)), best]


def _saturation(shot: Shot) -> float:
    """s of matrix ≈ saturation(s) · diag(gain), relative to the mean photograph; the gains keep the colour of paper."""
    matrix = shot.camera.matrix / max(float((shot.camera.matrix @ np.ones(3)) @ _LUMINANCE), 1e-6)
    white = matrix.sum(1)
    grey = white @ _LUMINANCE
    mixes = saturation_matrix(torch.from_numpy(_SATURATION)).numpy()
    gains = (white - (1 - _SATURATION[:, None]) * grey) / _SATURATION[:, None]
    misses = ((mixes * gains[:, None] - matrix) ** 2).sum((1, 2))
    return float(_SATURATION[misses.argmin()])


def fit_ink(reflectance: Float[np.ndarray, "125 3"]) -> InkFit:
    """All coefficients on Ink's monomials for the reflectances (paper = 1) of a 5 × 5 × 5 cube of colours.

    Least squares, errors weighted by lightness and for the primaries. jitter is as wide as the miss at the primaries:
    the true printer lies within the world, not at its middle.
    """
    weight, terms = np.sqrt((reflectance + 0.02) ** -1.2 * np.where(_PRIMARY, _OFTEN, 1)[:, None]), _terms()
    pairs = zip(weight.T, reflectance.T, strict=True)
    columns = [np.linalg.lstsq(terms * w[:, None], y * w, rcond=None)[0] for w, y in pairs]
    ink = Ink(response=tuple(float(one) for one in np.round(columns, 4).ravel()))
    inked = _PRIMARY & (_CUBE.min(1) < 1)
    miss = (printed(ink) - reflectance)[inked]
    jitter = min(round(float(np.sqrt(3 * (miss**2).mean())), 4), _JITTER_MAX)
    error, plain = (float(difference(one, reflectance).mean()) for one in (printed(ink), linear(_CUBE)))
    return InkFit(replace(ink, paper=(_PAPER, _PAPER), jitter=jitter), error, plain)


def printed(ink: Ink) -> Float[np.ndarray, "125 3"]:
    """The reflectances that an ink's middle draw gives the cube of colours."""
    response = ink.sample(torch.full((1, Ink.dims), 0.5))["response"][0].numpy().astype(float)
    return np.clip(_terms() @ response.T, 0, 1)


def _terms() -> Float[np.ndarray, "125 11"]:
    colours = torch.from_numpy(_CUBE).float().T.reshape(1, 3, -1, 1)
    return monomials(colours, torch.ones_like(colours[:, :1]))[0, :, :, 0].T.numpy().astype(float)


def _light(base: Stages, lights: Lights) -> list[Any]:
    """Transforms of light and colour with the measured ranges; what the base says of photographed scenes stays."""
    return [
        replace(base.get(Exposure), stops=span(lights.stops, (-8, 8))),
        replace(base.get(Temperature), kelvin=kelvin_span(lights.kelvin)),
        Veil(share=span(lights.veil, (0, 0.5))),
        Balance(stops=round(min(lights.balance, 2.0), 4), saturation=span(lights.saturation, (0, 3))),
    ]


def _sensors(base: Stages, shots: Sequence[Shot]) -> list[Any]:
    """Noise and blur; a tone curve is part of the print map already."""
    blurs = [shot.blur_px for shot in shots if shot.blur_px is not None]
    noise = Noise(
        shot=span(np.array([shot.shot for shot in shots]), (0, 0.1)),
        read=span(np.array([shot.read for shot in shots]), (0, 0.3)),
    )
    blur = Defocus(sigma_px=span(np.array(blurs), (0, 50))) if blurs else base.get(Defocus)
    return [noise, blur, Tone()]


def span(values: Float[np.ndarray, " k"], limits: Range) -> Range:
    """Ends of the uniform distribution that k values come from: (k + 1)/(k − 1) times as far apart as theirs."""
    low, high = float(values.min()), float(values.max())
    wider = (high - low) / (len(values) - 1) if len(values) > 1 else 0.0
    ends = np.clip((low - wider, high + wider), *limits)
    return round(float(ends[0]), 5), round(float(ends[1]), 5)


def kelvin_span(values: Float[np.ndarray, " k"]) -> Range:
    """The same of temperatures, which `Temperature` draws uniformly in 1/K."""
    warm, cold = span(1e6 / values, (1e6 / 15000, 1e6 / 3000))
    return round(1e6 / cold, 1), round(1e6 / warm, 1)


def replaced(base: Stages, measured: Sequence[Any]) -> Stages:
    """The base's stages with these transforms in place of those of their family, each in its physical order."""
    stages = {}
    for stage, families in FAMILIES.items():
        own = {type(transform): transform for transform in getattr(base, stage)}
        own |= {type(transform): transform for transform in measured if type(transform) in families.values()}
        stages[stage] = tuple(own[family] for family in families.values() if family in own)
    return Stages(**stages)


def world_yaml(world: World) -> bytes:
    """A file that `--world` takes and that gives the same world again."""
    content: dict[str, Any] = {"name": world.name, "note": world.note}
    stages = [_written(component) for component in world.components]
    content |= stages[0] if len(stages) == 1 else {"mixture": stages}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return text.encode()


def _written(component: Stages) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for stage, families in FAMILIES.items():
        names = {family: key for key, family in families.items()}
        content[stage] = {
            names[type(transform)]: {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in asdict(cast(Any, transform)).items()
                if value != ()
            }
            for transform in getattr(component, stage)
        }
    return content
