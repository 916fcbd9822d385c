"""`physadv capture`: photographs of the printed thing, each measured, judged and foretold."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from physadv.calibration.locate import BESIDE
from physadv.calibration.profile import PROFILE, load_profile
from physadv.calibration.strip import Strip
from physadv.capture import table
from physadv.capture.advice import advice
from physadv.capture.explain import Case, case_of, chosen, explain
from physadv.capture.figures import figures
from physadv.capture.hung import Printed, on_paper
from physadv.capture.judge import Answer, Sighting, judge, locate
from physadv.capture.layout import Layout, check_sheet, read_layout, sheet_layout
from physadv.capture.photos import Photo, Skipped, Source, Video, open_source
from physadv.capture.quads import CORNERS, Quad, read_quads
from physadv.capture.table import Row
from physadv.capture.track import tracks
from physadv.config import CaptureOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.evaluation import PLAIN, plain
from physadv.files import RUN, prepare_folder, read_json, sha256, to_pil, write_atomic, write_json
from physadv.handwork import check_on_face
from physadv.objectives import Objective
from physadv.printing.sheet import JSON as SHEET
from physadv.question import Target, check_question, goal_of, objective_of
from physadv.report.capture import write_capture_report
from physadv.runs.attack import versions
from physadv.runs.shared import check_device
from physadv.scenes import Scenes
from physadv.scenes.staged import staged
from physadv.scenes.store import digest
from physadv.targets import load_target
from physadv.threats import Artwork, load_artwork
from physadv.transforms.print import Ink
from physadv.transforms.world import World, load_world

TABLE, CHECKPOINT = "captures.csv", "checkpoint-capture.json"
CLEAN = "none"  # in the column `artwork` of the quads
PICTURE_PX = 240
_ELSEWHERE = {"out", "overwrite", "resume"}  # options that change no figure


@dataclass
class _Run:
    """What is given, resolved once; signs and artworks that rows of the quads name are loaded when met."""

    options: CaptureOptions
    target: Target
    world: World
    source: Source
    where: Layout | dict[str, Quad]
    printed: Printed | None = None

    def __post_init__(self) -> None:
        self._signs: dict[str, Scenes] = {}
        self._artworks: dict[str, Artwork | None] = {}

    @cached_property
    def objective(self) -> Objective:
        return objective_of(self.target, goal_of(self.target, self.options.goal))

    def sign(self, face: str) -> Scenes:
        """The face, staged. UserError: the target does not know it, or the goal is to have it read as what it is."""
        if face not in self._signs:
            label, face_mm = (self.options.label if face == self.options.face else None), self.options.face_mm
            scenes = staged(face, backgrounds=self.options.backgrounds, label=label, face_mm=face_mm)
            check_question(self.target, scenes, self.objective.goal)
            self._signs[face] = scenes.to(self.options.device)
        return self._signs[face]

    def artwork(self, folder: str | None, scenes: Scenes) -> Artwork | None:
        """What is on the sign. UserError: it cannot be printed on that face."""
        work = self.work(folder)
        if work not in self._artworks:
            loaded = None if work == CLEAN else load_artwork(Path(work))
            if loaded is not None:
                _check_printed(loaded, work)
            self._artworks[work] = loaded and loaded.to(self.options.device)
        worn = self._artworks[work]
        if worn is not None:
            check_on_face(worn, scenes.faces.size_mm)
        return worn

    def work(self, folder: str | None) -> str:
        """What an artwork is called: its folder in full. A row's counts from the table's, --artwork from here."""
        base = self.options.quads.parent if folder and self.options.quads else Path()
        given = folder or str(self.options.artwork or CLEAN)
        return CLEAN if given == CLEAN else str((base / given).resolve())

    def hung(self, artwork: Artwork | None) -> Artwork | None:
        """The artwork on its uncut sheet, where the sheet hangs on the sign."""
        if artwork is None or not isinstance(self.where, Layout) or self.where.paper_mm is None:
            return None
        return on_paper(artwork, self.where)

    def control(self, artwork: Artwork | None) -> Artwork | None:
        """A grey one of the same shape, hung in the same way."""
        grey = artwork and plain(artwork, PLAIN["grey"])
        return self.hung(grey) or grey

    def quad(self, name: str) -> Quad | None:
        """What the table of quads says of a file."""
        return self.where.get(name) if isinstance(self.where, dict) else None

    def contents(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Signs and artworks, as they were loaded."""
        for face, scenes in self._signs.items():
            behind = [] if scenes.backgrounds is None else [scenes.backgrounds]
            yield face, [scenes.labels, scenes.faces.images, scenes.faces.size_mm, *behind]
        for work, artwork in self._artworks.items():
            if artwork is not None:
                yield work, [artwork.rgb, artwork.alpha, artwork.place_mm]

    @property
    def paper_mm(self) -> tuple[float, ...] | None:
        return self.where.paper_mm if isinstance(self.where, Layout) else None


def run_capture(options: CaptureOptions, *, command: str, console: Console) -> dict[str, Any]:
    """Measure, judge and foretell every photograph, split the gap; writes captures.csv, metrics.json, report.html."""
    options = _as_made(options, console)
    run = _prepare(options)
    if options.resume and not options.out.is_dir():
        raise UserError(f"There is no run in {options.out} to continue; check --out, or leave --resume out.")
    out = prepare_folder(options.out, overwrite=options.overwrite, resume=options.resume)
    rows = _earlier(run, out)
    done = {row.file for row in rows}
    with console.counting("capture", max(1, len(run.source) - len(done))) as advance:
        for photo in run.source.read(done | _tables(options)):
            row = table.append(out / TABLE, _row(run, photo, len(rows), out))
            rows.append(row)
            if row.skipped:
                console.say(f"skipped {row.file}: {row.skipped}")
            advance(1)
    metrics = figures(rows, seed=options.seed) | {
        "gap": _gap(run, rows, console),
        "tracks": [track.to_json(speed_kmh=options.speed_kmh) for track in tracks(rows)],
        "run": _description(run, command),
    }
    metrics["advice"] = advice(metrics)
    write_json(out / "metrics.json", metrics)
    write_capture_report(out / "report.html", metrics=metrics, rows=rows, folder=out)
    return metrics


def _as_made(options: CaptureOptions, console: Console) -> CaptureOptions:
    """With the width of the face that the artwork was made for, unless another is given."""
    if options.artwork is None:
        return options
    made = load_artwork(options.artwork).record.get("run", {}).get("config", {}).get("face_mm")
    if made is None or made == options.face_mm:
        return options
    if options.face_mm is not None:
        console.say(f"the artwork was made for a face of {made:g} mm; here it hangs on one of {options.face_mm:g} mm")
        return options
    console.say(f"the sign's face is {made:g} mm wide, for which the artwork was made; give --face-mm if it is not")
    return options.model_copy(update={"face_mm": made})


def _prepare(options: CaptureOptions) -> _Run:
    """Everything that can be wrong is wrong here, before anything is written."""
    check_device(options.device)
    if options.photos is None:
        raise UserError("Which photographs? Give a folder, a video or the number of a camera: physadv capture PHOTOS.")
    if len([one for one in (options.sheet, options.tags, options.quads) if one]) > 1:
        raise UserError("--sheet, --tags and --quads each say where the sign is: give one of them.")
    target = load_target(options.target, device=options.device)
    world = load_world(options.world)
    source = open_source(options.photos, focal_px=options.focal_px, frames=options.frames)
    run = _Run(options, target, world, source, {})
    artwork = run.artwork(None, run.sign(options.face))
    run.where = _where(options, artwork)
    run.printed = _printed(options)
    for quad in run.where.values() if isinstance(run.where, dict) else ():
        run.artwork(quad.artwork, run.sign(quad.label or options.face))
    return run


def _where(options: CaptureOptions, artwork: Artwork | None) -> Layout | dict[str, Quad]:
    if options.quads:
        return read_quads(options.quads)
    if options.tags:
        return read_layout(options.tags)
    folder = _sheet(options)
    if folder is None or (options.sheet is None and not (folder / SHEET).is_file()):
        raise UserError("Where is the sign? Give --sheet DIR, --tags FILE (tags round the sign) or --quads FILE.csv.")
    if artwork is None:
        return sheet_layout(folder, None)
    assert options.artwork is not None
    check_sheet(folder, options.artwork, artwork.to("cpu"))
    return sheet_layout(folder, artwork.to("cpu"))


def _sheet(options: CaptureOptions) -> Path | None:
    return options.sheet or options.artwork


def _printed(options: CaptureOptions) -> Printed | None:
    """UserError: there is a profile, but no sheet that would bear a strip."""
    if options.profile is None:
        return None
    folder = _sheet(options)
    if options.tags or options.quads or folder is None:
        raise UserError(
            "--profile reads the colour strip of a sheet that is hung whole: give --sheet, or leave it out."
        )
    return Printed(Strip(folder), load_profile(options.profile).table)


def _check_printed(artwork: Artwork, name: str) -> None:
    if len(artwork) > 1 or not artwork.printed:
        raise UserError(f"{name} holds no single printed artwork: photographs show one that was printed.")


def _earlier(run: _Run, out: Path) -> list[Row]:
    """The rows that are there. UserError: they belong to other options, or to files that held something else."""
    said = _given(run)
    path = out / CHECKPOINT
    if run.options.resume and path.is_file():
        if read_json(path) != said:
            raise UserError(
                f"{path} belongs to another run; repeat that run's options with the files as they were, or start anew "
                "with --overwrite."
            )
        return table.read(out / TABLE)
    write_json(path, said)
    return []


def _given(run: _Run) -> dict[str, Any]:
    """What a checkpoint must agree on: the options, and what is in the files that they name."""
    options, profile = run.options, run.options.profile
    files = {"quads": options.quads, "tags": options.tags}
    if isinstance(run.where, Layout) and options.tags is None:
        files["sheet"] = (_sheet(options) or Path()) / SHEET
    files["profile"] = profile / PROFILE if profile and profile.is_dir() else profile
    return options.model_dump(mode="json", exclude=_ELSEWHERE) | {
        "weights": run.target.weights_hash,
        "world_hash": run.world.hash,
        "files": {name: sha256(path) for name, path in files.items() if path is not None},
        "contents": {name: digest(*tensors) for name, tensors in run.contents()},
    }


def _tables(options: CaptureOptions) -> set[str]:
    """Names of files that may lie among the photographs and are none."""
    given = [path for path in (options.quads, options.tags) if path is not None]
    beside = {path.name for path in given if path.resolve().parent == Path(options.photos or "").resolve()}
    return {BESIDE, TABLE, RUN} | beside


def _row(run: _Run, photo: Photo | Skipped, number: int, out: Path) -> Row:
    if isinstance(photo, Skipped):
        return Row(photo.name, photo.name, skipped=photo.reason)
    by = run.where if isinstance(run.where, Layout) else run.quad(photo.name)
    if by is None:
        return Row(photo.name, photo.group, skipped=f"{run.options.quads} has no row for it")
    label, folder, condition = (by.label, by.artwork, by.condition) if isinstance(by, Quad) else (None, None, None)
    scenes = run.sign(label or run.options.face)
    row = Row(photo.name, photo.group, condition=condition, time_s=photo.time_s)
    photo = _focused(run, photo)
    try:
        sighting = locate(photo, by, scenes)
        answer = judge(
            photo,
            sighting,
            target=run.target,
            scenes=scenes,
            artwork=run.artwork(folder, scenes),
            objective=run.objective,
            world=run.world,
            views=run.options.views,
            seed=run.options.seed,
            paper_mm=run.paper_mm,
            hung=run.hung(run.artwork(folder, scenes)),
            control=run.control(run.artwork(folder, scenes)),
        )
    except UserError as error:
        return replace(row, skipped=str(error))
    write_atomic(out / f"crop-{number:06d}.jpg", _side_by_side(answer))
    return _answered(replace(row, picture=number, **_seen(sighting, scenes)), answer)


def _focused(run: _Run, photo: Photo) -> Photo:
    """With the focal length of its row of quads, unless one was given for all; both go before the EXIF."""
    quad = run.quad(photo.name)
    said = run.options.focal_px or (quad and quad.focal_px)
    return replace(photo, focal_px=said) if said else photo


def _seen(sighting: Sighting, scenes: Scenes) -> dict[str, Any]:
    """Where the photograph was taken from, as columns."""
    pose, size_mm = sighting.pose, scenes.faces.size_mm[scenes.face[0]].double().cpu().numpy()
    corners = sighting.plane.project(size_mm * [[0, 0], [1, 0], [1, 1], [0, 1]])
    return dict(zip(CORNERS, corners.ravel().tolist(), strict=True)) | {
        "found": sighting.found,
        "error_px": None if sighting.found is None else sighting.plane.error_px,  # four corners fit exactly
        "sign_px": sighting.sign_px,
        "distance_m": pose.distance_m if sighting.measured else None,
        "yaw_deg": pose.yaw_deg,
        "pitch_deg": pose.pitch_deg,
        "roll_deg": pose.roll_deg,
    }


def _answered(row: Row, answer: Answer) -> Row:
    measured = answer.measured
    return replace(
        row,
        stops=None if measured is None else measured.light.stops,
        blur_px=None if measured is None else measured.blur_px,
        answer=answer.name,
        confidence=answer.confidence,
        right=answer.right,
        success=answer.success,
        predicted=answer.predicted,
        views=answer.views,
        predicted_rate=answer.predicted / answer.views,
        predicted_grey=answer.grey,
    )


def _gap(run: _Run, rows: Sequence[Row], console: Console) -> dict[str, Any] | None:
    """Some photographs again, spread over all; a camera's are gone."""
    wanted = {row.file: row for row in chosen(rows, run.options.gap)}
    if not wanted or (isinstance(run.source, Video) and isinstance(run.source.source, int)):
        return None
    cases = []
    with console.counting("gap by stage", 2 * len(wanted)) as advance:
        for photo in run.source.read({row.file for row in rows} - wanted.keys()):
            if isinstance(photo, Photo) and photo.name in wanted:
                case = _case(run, _focused(run, photo), wanted[photo.name])
                cases += [case] if case else []
                advance(1)
        said = explain(
            cases,
            target=run.target,
            objective=run.objective,
            world=run.world,
            views=run.options.views,
            seed=run.options.seed,
            advance=advance,
            printed=run.printed,
        )
    return said and said | {"printer": _known_printer(run)}


def _known_printer(run: _Run) -> str | None:
    """Where the user has measured it already: in the world, or in a profile."""
    if any(stages.get(Ink).response for stages in run.world.components):
        return "measured"
    return None if run.printed is None else "profile"


def _case(run: _Run, photo: Photo, row: Row) -> Case | None:
    quad = run.quad(photo.name)
    scenes = run.sign((quad and quad.label) or run.options.face)
    folder = quad.artwork if quad else None
    artwork = run.artwork(folder, scenes)
    work = None if artwork is None else run.work(folder)
    return case_of(
        photo,
        row,
        scenes=scenes,
        artwork=artwork,
        work=work,
        target=run.target,
        paper_mm=run.paper_mm,
        hung=run.hung(artwork),
        printed=run.printed,
    )


def _side_by_side(answer: Answer) -> bytes:
    """The photograph and one of the views foretold, as the target sees them, as JPEG."""
    canvas, buffer = Image.new("RGB", (2 * PICTURE_PX, PICTURE_PX)), io.BytesIO()
    for place, picture in enumerate((answer.seen, answer.foretold)):
        canvas.paste(_enlarged(picture), (place * PICTURE_PX, 0))
    canvas.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _enlarged(picture: Float[Tensor, "3 h w"]) -> Image.Image:
    return to_pil(picture).resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC)


def _description(run: _Run, command: str) -> dict[str, Any]:
    """`run` of docs/metrics.md."""
    options = run.options
    by = "quads" if isinstance(run.where, dict) else f"tags {run.where.family}"
    return {
        "command": command,
        "config": options.model_dump(mode="json", exclude=_ELSEWHERE),
        "target": {"name": run.target.name, "weights_hash": run.target.weights_hash},
        "goal": run.objective.goal.name,
        "located_by": by,
        "world": {"name": run.world.name, "hash": run.world.hash},
        "seed": options.seed,
        "versions": versions(),
    }
