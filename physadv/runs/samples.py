"""`physadv samples`: the Gaussian model's answer, or the learning curves of a data set and what they foretell."""

import platform
import time
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

from physadv import __version__
from physadv.config import SamplesOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.files import prepare_folder, write_atomic, write_json
from physadv.report.samples import data_headline, theory_headline, write_samples_report
from physadv.runs.shared import check_device
from physadv.samples.curves import CONTEXT, Done, Study, estimate, input_px, measure
from physadv.samples.demonstration import demonstrate
from physadv.samples.gaussian import Gaussian
from physadv.samples.plots import data_png, theory_png, vanishing_png
from physadv.samples.prognosis import prognosis, verify
from physadv.samples.theory import theory
from physadv.scenes import load_scenes
from physadv.threats.ball import Linf
from physadv.threats.catalogue import parse_threat
from physadv.training import check_sources

D, GOAL_ERROR = 3072, 0.01
EPSILON_THEORY, EPSILON_DATA = "0.25", "2/255"
SHOWN = 20_000  # samples of the demonstration
CURVE = "curve.json"


def run_samples(options: SamplesOptions, *, command: str, console: Console) -> dict[str, Any]:
    """With --scenes the data's own curves, without them the model; writes metrics.json, samples.png, report.html."""
    check_device(options.device)
    start = time.monotonic()
    if options.scenes is None:
        figures, pictures = _theory(options)
        out = prepare_folder(options.out, overwrite=options.overwrite)
    else:
        study = _study(options)
        sure = _whole(study) if options.verify else None
        out = prepare_folder(options.out, overwrite=options.overwrite, resume=options.resume)
        figures, pictures = _data(options, study, sure, out, console)
    metrics = figures | {"run": _description(options, command, time.monotonic() - start)}
    write_json(out / "metrics.json", metrics)
    for name, picture in pictures.items():
        write_atomic(out / name, picture)
    write_samples_report(out / "report.html", metrics, pictures)
    return metrics


def _theory(options: SamplesOptions) -> tuple[dict[str, Any], dict[str, bytes]]:
    if options.judge is not None or options.resume or options.verify:
        raise UserError("--judge, --resume and --verify go with --scenes; give the photographs to train on, too.")
    d = D if options.d is None else options.d
    model = Gaussian(d, d**0.25 if options.sigma is None else options.sigma)
    goal = GOAL_ERROR if options.goal_error is None else options.goal_error
    told = theory(model, epsilon=_number(options.epsilon or EPSILON_THEORY), goal_error=goal, seed=options.seed)
    shown = demonstrate(samples=SHOWN, seed=options.seed)
    figures = {"theory": told, "demonstration": shown, "headline": theory_headline(told)}
    return figures, {"samples.png": theory_png(told), "demonstration.png": vanishing_png(shown)}


def _number(text: str) -> float:
    try:
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"--epsilon is {text!r}; give 0 or more, such as 0.25, in units of the class mean.")
    return value


def _study(options: SamplesOptions) -> Study:
    if options.judge is None:
        raise UserError(
            "A learning curve is judged on other signs; give them with --judge, for example gtsrb:DIR/test."
        )
    if any(value is not None for value in (options.d, options.sigma, options.goal_error)):
        raise UserError(
            "--d, --sigma and --goal-error belong to the model, not to photographs; leave out --scenes, or them."
        )
    epsilon = parse_threat(f"linf:{options.epsilon or EPSILON_DATA}")
    assert isinstance(epsilon, Linf)
    pixels = input_px(options.arch)
    scenes = load_scenes(str(options.scenes), canvas_px=pixels, margin=CONTEXT)
    judge = load_scenes(options.judge, limit=options.judge_photographs, canvas_px=pixels, margin=CONTEXT)
    check_sources(options.arch, [scenes], [judge])
    return Study(
        arch=options.arch,
        scenes=scenes.to(options.device),
        judge=judge.to(options.device),
        shares=_shares(options.sizes, len(scenes)),
        seeds=options.seeds,
        epsilon=epsilon.epsilon,
        seed=options.seed,
    )


def _shares(text: str, photographs: int) -> tuple[float, ...]:
    """`1/16,1/4` or `500,2000`: shares of the photographs, at least three and increasing, 1 at most."""
    try:
        sizes = [float(Fraction(part.strip())) for part in text.split(",")]
    except (ValueError, ZeroDivisionError):
        raise UserError(
            f"--sizes is {text!r}; give shares or photographs, such as 1/16,1/8,1/4 or 500,1000,2000."
        ) from None
    shares = sorted({size if size <= 1 else size / photographs for size in sizes})
    if len(shares) < 3 or shares[0] <= 0 or shares[-1] > 1:
        raise UserError(
            f"--sizes is {text!r}; a curve needs at least three sizes between 0 and all {photographs} photographs."
        )
    return tuple(shares)


def _whole(study: Study) -> Study:
    """The same trainings on all photographs."""
    if study.shares[-1] == 1:
        raise UserError("--verify trains on all photographs, which --sizes already names; leave 1 out of --sizes.")
    return replace(study, shares=(1.0,))


def _data(
    options: SamplesOptions, study: Study, sure: Study | None, out: Path, console: Console
) -> tuple[dict[str, Any], dict[str, bytes]]:
    stages = [(study, out / CURVE)] + ([] if sure is None else [(sure, out / f"verified-{CURVE}")])
    seconds = sum(estimate(one, path, resume=options.resume) for one, path in stages)
    runs = sum(len(one.runs) for one, _ in stages)
    console.announce(f"samples: {runs} trainings of {study.arch}, judged on {len(study.judge)} photographs", seconds)

    def report(done: Done) -> None:
        console.announce(_line(done), done.seconds_left)

    points = measure(study, out / CURVE, resume=options.resume, report=report)
    told = prognosis(study, points, goal_accuracy=options.goal_accuracy)
    if sure is not None:
        held_out = measure(sure, out / f"verified-{CURVE}", resume=options.resume, report=report)
        told["verified"] = verify(study, held_out, told)
    figures = {"data": told, "headline": data_headline(told)}
    return figures, {"samples.png": data_png(told, options.goal_accuracy)}


def _line(done: Done) -> str:
    point = done.point
    clean, robust = (round(100 * sum(right) / done.judged) for right in (point.clean, point.robust))
    return (
        f"{done.number}/{done.total} {point.training} training, {point.photographs} photographs of {point.signs} "
        f"signs: clean {clean} %, attacked {robust} %; left"
    )


def _description(options: SamplesOptions, command: str, seconds: float) -> dict[str, Any]:
    return {
        "command": command,
        "config": options.model_dump(mode="json", exclude={"out", "overwrite", "resume"}),
        "seed": options.seed,
        "seconds": seconds,
        "versions": {"physadv": __version__, "torch": version("torch"), "python": platform.python_version()},
    }
