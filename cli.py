"""The command line: options in, files and a short answer out. What commands do is in `physadv/runs`."""

import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console as Rich
from rich.table import Table
from rich.text import Text

from physadv import __version__
from physadv.calibration.compare import STATISTICS
from physadv.capture.figures import FEW
from physadv.config import (
    ARGUMENT,
    AttackOptions,
    AuditOptions,
    BenchOptions,
    CalibrateOptions,
    CaptureOptions,
    EvaluateOptions,
    HardenOptions,
    Options,
    SamplesOptions,
    ScanOptions,
    TrainOptions,
    configure,
)
from physadv.console import Console
from physadv.defences import list_defences
from physadv.errors import UserError
from physadv.handwork import apply_artwork, check_free, contact_sheet, import_artwork, print_chart, print_sheet
from physadv.printing import lost_tags
from physadv.printing.reach import reach_words
from physadv.report import compare_reports
from physadv.report.bench import HEAD, peer_rows
from physadv.report.bench import rows as bench_rows
from physadv.report.calibrate import error_rows, verdict
from physadv.report.capture import where
from physadv.report.detection_plots import precision_rows
from physadv.report.harden import demo_headline, harden_tables
from physadv.report.headline import closest_words, remarks
from physadv.report.heatmap import candidate, points
from physadv.report.samples import data_remarks, sample_tables
from physadv.report.words import rightly
from physadv.runs import (
    run_attack,
    run_audit,
    run_bench,
    run_calibrate,
    run_capture,
    run_demo,
    run_evaluate,
    run_fit_world,
    run_harden,
    run_samples,
    run_scan,
    run_sweep,
    run_train,
)
from physadv.runs.fit_world import KnownSign
from physadv.targets import list_targets
from physadv.threats import list_threats
from physadv.transforms.world import DIGITAL, load_world, world_names

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Can something printed and put on the object break a vision system, and how do I make it stop?",
)
worlds_app = typer.Typer(no_args_is_help=False, invoke_without_command=True, help="What the physical world does.")
app.add_typer(worlds_app, name="worlds")
# In a pipe a row stays on its line; paths may hold what looks like markup.
out = Rich(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 500)


def command(model: type[Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command whose options are the fields of `model`, and --config."""

    def register(function: Callable[[Any], None]) -> Callable[..., None]:
        def run(config: Path | None, **given: Any) -> None:
            function(configure(model, given, config))

        run.__doc__ = function.__doc__
        run.__signature__ = inspect.Signature([_config(), *map(_option, model.model_fields)])  # type: ignore[attr-defined]
        app.command(function.__name__)(run)
        return run

    def _option(name: str) -> inspect.Parameter:
        field = model.model_fields[name]
        default = "" if field.default in (None, False) else f" (default: {field.default})"
        kind = field.annotation if "None" in str(field.annotation) else field.annotation | None  # type: ignore[operator]
        flags = [f"--{name.replace('_', '-')}"]
        option: Any = typer.Option(*flags, help=f"{field.description}{default}", show_default=False)
        if field.json_schema_extra == ARGUMENT:
            option = typer.Argument(help=field.description, show_default=False)
        if field.annotation is bool:
            kind = bool | None
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])

    def _config() -> inspect.Parameter:
        option = typer.Option("--config", help="YAML file with the same keys as the options.", show_default=False)
        kind = Annotated[Path | None, option]
        return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)

    return register


@command(AttackOptions)
def attack(options: AttackOptions) -> None:
    """Find a printable artwork that breaks the target, and judge it on views that the search never saw."""
    with Console() as console:
        metrics = run_attack(options, command=_command(), console=console)
    _show(metrics)
    if "closest" in metrics:
        out.print(closest_words(metrics["closest"]))
    out.print(f"artwork, metrics.json and report.html are in {options.out}")


@command(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    """Judge an artwork, a fresh attack on every scene (--attack), or the clean target."""
    with Console() as console:
        metrics = run_evaluate(options, command=_command(), console=console)
    if not metrics:  # another process of torchrun tells them
        return
    _show(metrics)
    out.print(f"metrics.json and report.html are in {options.out}")


@command(ScanOptions)
def scan(options: ScanOptions) -> None:
    """Try a sticker at every place of a grid over the sign: a map of where it is vulnerable, and the best place."""
    with Console() as console:
        metrics = run_scan(options, command=_command(), console=console)
    rows: list[tuple[str, ...]] = [
        (candidate(one), _percent(one["judged"]), _percent(one["mean"]), points(one["difference"]))
        for one in metrics["scan"]["best"]
    ]
    _table(("best place, on fresh views", "attack success [95 %]", "mean of all places", "difference"), rows)
    out.print(f"the map is in {options.out / 'report.html'}; print the best: physadv print --artwork {options.out}")


@command(AuditOptions)
def audit(options: AuditOptions) -> None:
    """Is the target (and its --defence) robust, or was the attack weak? Attacks naive and adaptive, and flags."""
    with Console() as console:
        metrics = run_audit(options, command=_command(), console=console)
    rows = [(one["name"], one["kind"], _percent(one["broken"])) for one in metrics["trials"]]
    _table(("attack", "kind", "scenes broken, of those tried [95 %]"), rows)
    robust = metrics["robust_accuracy"]
    shares = [("clean accuracy", _percent(metrics["clean_accuracy"]))]
    if metrics["run"]["abstains"]:
        abstains = 100 * metrics["abstains_on_clean"]
        shares += [("abstains on clean scenes", f"{abstains:.1f} % (set to 5 % from 40 scenes on)")]
    shares += [(f"robust accuracy, {kind}", _percent(robust[kind])) for kind in ("naive", "adaptive")]
    _table(("", "share of the scenes [95 %]"), shares)
    for name, flag in metrics["flags"].items():
        if flag["raised"]:
            out.print(f"! {name}: {flag['seen']}. {flag['advice']}")
    out.print(metrics["verdict"])
    out.print(f"audit.json and report.html are in {options.out}")


@command(CalibrateOptions)
def calibrate(options: CalibrateOptions) -> None:
    """Measure a printer, and the light and cameras that photographed it, by photographs of a colour chart."""
    with Console() as console:
        metrics = run_calibrate(options, command=_command(), console=console)
    head = ("mean CIEDE2000 of what the fit has not seen", "new colours", "new photographs")
    _table(head, error_rows(metrics["errors"]))
    out.print(verdict(metrics["errors"]))
    for one in metrics["skipped"]:
        out.print(f"note: {one['name']} was left out: {one['reason']}")
    out.print(f"profile.json and report.html are in {options.out}; next: physadv worlds fit --profile {options.out}")


@command(TrainOptions)
def train(options: TrainOptions) -> None:
    """Train a classifier on photographs and staged faces seen through a world, or a detector on street photographs."""
    with Console() as console:
        accuracy = run_train(options, console=console)
    for scenes, rates in accuracy.items():
        if "classes" in rates:
            _table((f"{scenes}: class", "AP50 [95 %]", "precision", "recall"), _detector_rows(rates))
        else:
            _table(("world", f"accuracy on {scenes}"), [(name, _percent(rate)) for name, rate in rates.items()])
    out.print(f"weights are in {options.out}; use them with --target safetensors:{options.out}")


@command(HardenOptions)
def harden(options: HardenOptions) -> None:
    """Train a target against the attack itself, and say what that bought: before and after, under fresh attacks."""
    with Console() as console:
        if options.submit or options.sweep:
            _swept(run_sweep(options, command=_command(), console=console), options.out)
            return
        metrics = run_harden(options, command=_command(), console=console)
    if not metrics:
        return
    for head, rows in harden_tables(metrics):
        _table(head, rows)
    out.print(metrics["headline"])
    out.print(f"{metrics['load']} metrics.json, card.md and report.html are in {options.out}")


def _swept(sweep: dict[str, Any], folder: Path) -> None:
    """What came of each training of a sweep."""
    _table(("training", ""), [(one["name"], one.get("headline") or one["error"]) for one in sweep["trainings"]])
    out.print(f"each has its folder in {folder}, with weights and report.html; sweep.json lists them")


@command(CaptureOptions)
def capture(options: CaptureOptions) -> None:
    """Judge photographs of the printed thing: where the camera stood, what the target says, what was foretold."""
    with Console() as console:
        metrics = run_capture(options, command=_command(), console=console)
    rows: list[tuple[str, ...]] = [("all", _percent(metrics["observed"]), _percent(metrics["predicted"]))]
    rows += [
        (where(one), _percent(one["observed"]), _percent(one["predicted"]))
        for one in metrics["cells"]
        if one["observed"]["n"] >= FEW
    ]
    if metrics["predicted_grey"]:
        rows += [("a grey artwork of the same shape", "", _percent(metrics["predicted_grey"]))]
    _table(("photographs", "goal reached, observed [95 %]", "predicted [95 %]"), rows)
    judged, skipped = metrics["photographs"].values()
    if not judged:
        first = "".join(f"; {one['file']}: {one['reason']}" for one in metrics["skipped"][:1])
        raise UserError(f"No photograph of {skipped} could be judged{first} All reasons are in {options.out}.")
    for number, sentence in enumerate(metrics["advice"], 1):
        out.print(f"{number}. {sentence}", highlight=False, markup=False)
    out.print(f"{judged} judged, {skipped} not; captures.csv, metrics.json and report.html are in {options.out}")


@command(SamplesOptions)
def samples(options: SamplesOptions) -> None:
    """How many samples robustness takes: in the Gaussian model, or for photographs (--scenes and --judge)."""
    with Console() as console:
        metrics = run_samples(options, command=_command(), console=console)
    for head, rows in sample_tables(metrics):
        _table(head, rows)
    out.print(metrics["headline"])
    for remark in data_remarks(metrics["data"]) if "data" in metrics else []:
        out.print(f"note: {remark}")
    out.print(f"metrics.json, samples.png and report.html are in {options.out}")


@command(BenchOptions)
def bench(options: BenchOptions) -> None:
    """What a step of the attack costs beside the bare model's on this machine, and the peers' that are installed."""
    with Console() as console:
        metrics = run_bench(options, command=_command(), console=console)
    _table(HEAD, bench_rows(metrics))
    if metrics["peers"] or metrics["absent"]:
        _table(("peer", "ratio to the bare step"), peer_rows(metrics))
    out.print(metrics["headline"])
    out.print(f"bench.json, bench.png and report.html are in {options.out}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for everything that is written.")] = Path(
        "physadv-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")] = False,
) -> None:
    """Attack, judge, print and harden on shipped signs and the shipped victim: a true answer in three minutes."""
    with Console() as console:
        metrics = run_demo(folder, seed=seed, device=device, overwrite=overwrite, command=_command(), console=console)
    _show(metrics)
    out.print(demo_headline(metrics))
    out.print(f"open {folder / 'report.html'}; print {folder / 'sheet.pdf'}")
    out.print(f"the hardened model: --target safetensors:{folder / 'hardened'}; the attack on it: {folder / 'again'}")


@app.command()
def apply(
    artwork: Annotated[Path, typer.Option(help="Folder of an artwork.")],
    image: Annotated[Path | None, typer.Option(help="Photograph of a sign.")] = None,
    quad: Annotated[str | None, typer.Option(help="Corners of the face in the photograph: 'x,y x,y x,y x,y'.")] = None,
    face: Annotated[str, typer.Option(help="A drawn sign or FACE.png, where there is no photograph.")] = "stop",
    label: Annotated[str | None, typer.Option(help="Class of the sign: its size in mm.")] = None,
    face_mm: Annotated[float | None, typer.Option(help="Width of the face in mm.")] = None,
    output: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("applied.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the PNG.")] = False,
) -> None:
    """Put an artwork onto a photograph (--image, --quad) or a sign's face; no model needed."""
    apply_artwork(artwork, output, image=image, quad=quad, face=face, label=label, face_mm=face_mm, overwrite=overwrite)
    out.print(f"wrote {output}")


@app.command("import")
def import_(
    image: Annotated[Path, typer.Argument(help="The patch: PNG, transparent where nothing is printed.")],
    width_mm: Annotated[float, typer.Option(help="Its width on paper, in mm.")],
    at: Annotated[str, typer.Option(help="Its centre on the sign: 'x,y' in mm from the face's top-left.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the artwork.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")] = False,
) -> None:
    """Make an artwork of an existing patch, to apply, print or evaluate it."""
    import_artwork(image, folder, width_mm=width_mm, at=at, overwrite=overwrite)
    out.print(f"artwork in {folder}; judge it with: physadv evaluate --artwork {folder}")


@app.command("print")
def print_(
    artwork: Annotated[Path | None, typer.Option(help="Folder of an artwork.")] = None,
    image: Annotated[Path | None, typer.Option(help="Any picture, with --width-mm.")] = None,
    width_mm: Annotated[float | None, typer.Option(help="Width of --image on paper.")] = None,
    chart: Annotated[int | None, typer.Option(help="The colour chart of 24, 96 or 256 patches, for calibrate.")] = None,
    paper: Annotated[str, typer.Option(help="a4, a3, letter or WxHmm.")] = "a4",
    dpi: Annotated[int, typer.Option(help="Dots per inch.")] = 300,
    tags: Annotated[
        str, typer.Option(help="apriltag, aruco or none: marks by which a photograph is measured.")
    ] = "apriltag",
    no_tags: Annotated[bool, typer.Option("--no-tags", help="The same as --tags none.")] = False,
    tags_at: Annotated[
        str, typer.Option(help="Page corners (page), or round or beside the artwork, on the piece itself.")
    ] = "page",
    strip: Annotated[bool, typer.Option(help="A strip of 24 colours, by which a photograph is calibrated.")] = True,
    icc: Annotated[Path | None, typer.Option(help="ICC profile of printer and paper; writes proof.png.")] = None,
    intent: Annotated[str, typer.Option(help="perceptual, relative, saturation or absolute.")] = "relative",
    template: Annotated[bool, typer.Option("--template", help="template.pdf: the sign's outline, 1:1.")] = False,
    folder: Annotated[Path | None, typer.Option("--out", help="Folder for sheet.pdf; default: the artwork's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier sheet.")] = False,
) -> None:
    """Write sheet.pdf at true size, and sheet.json with everything in mm."""
    how: dict[str, Any] = {"paper": paper, "dpi": dpi, "tags": "none" if no_tags else tags, "tags_at": tags_at}
    how |= {"icc": icc, "intent": intent, "template": template, "folder": folder, "overwrite": overwrite}
    if chart is not None and (artwork or image or width_mm):
        raise UserError("--chart prints a chart of its own size: leave --artwork, --image and --width-mm out.")
    if chart is not None:
        sheet = print_chart(chart, **how)
    else:
        sheet = print_sheet(artwork, image, width_mm=width_mm, strip=strip, **how)
    pages = len(sheet.pages)
    out.print(f"{pages} page{'s' * (pages > 1)} of {sheet.paper}; print at 100 % and check the ruler")
    if loss := lost_tags(sheet):
        out.print(f"note: {loss}")
    elif tags_of := sheet.tags or sheet.pages[0].tags:
        out.print(reach_words(tags_of))
    if sheet.printer:
        share, name = sheet.printer.out_of_gamut, sheet.printer.profile
        out.print(f"{share:.0%} of the artwork is out of the gamut of {name}; {sheet.printer.proof} shows the print")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of two or more runs.")],
    compare: Annotated[bool, typer.Option("--compare", help="Put the runs side by side.")] = False,
    output: Annotated[Path, typer.Option("--out", help="HTML to write.")] = Path("comparison.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the HTML.")] = False,
) -> None:
    """Put runs side by side: `report --compare RUN RUN`."""
    if not compare:
        raise UserError("Every run has its own report.html; to put several side by side, add --compare.")
    check_free(output, ".html", overwrite=overwrite)
    compare_reports(output, runs)
    out.print(f"wrote {output}")


@app.command()
def targets() -> None:
    """List what --target takes."""
    _table(("target", "what it is"), list(list_targets()))


@app.command()
def threats() -> None:
    """List what --threat takes."""
    _table(("threat", "example", "what may change"), [(row.name, row.example, row.meaning) for row in list_threats()])


@app.command()
def defences() -> None:
    """List what --defence takes: examples that are known to fail."""
    rows = [(row.example, row.kind, row.meaning, row.paper) for row in list_defences()]
    _table(("defence", "kind", "what it does", "paper"), rows)


@worlds_app.callback()
def worlds(context: typer.Context) -> None:
    """List the named worlds; `worlds show NAME` draws a contact sheet."""
    if context.invoked_subcommand:
        return
    known = [*map(load_world, [*world_names(), "promise"]), DIGITAL]
    _table(("world", "hash", "what it is"), [(world.name, world.hash, world.note) for world in known])


@worlds_app.command("show")
def show_world(
    name: Annotated[str, typer.Argument(help="A named world or a YAML file.")],
    scenes: Annotated[
        str, typer.Option(help="Scenes to photograph.")
    ] = "staged:stop,yield,priority-road,speed-limit-50",
    backgrounds: Annotated[Path | None, typer.Option(help="Folder of pictures to stage signs over.")] = None,
    artwork: Annotated[Path | None, typer.Option(help="Folder of an artwork to put on them.")] = None,
    views: Annotated[int, typer.Option(help="Photographs.")] = 48,
    size_px: Annotated[int, typer.Option(help="Pixels of each photograph.")] = 96,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    output: Annotated[Path | None, typer.Option("--out", help="PNG to write; default NAME.png.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the PNG.")] = False,
) -> None:
    """Draw a contact sheet of a world."""
    path = output or Path(f"{Path(name).stem}.png")
    contact_sheet(
        name,
        path,
        scenes=scenes,
        backgrounds=backgrounds,
        artwork=artwork,
        views=views,
        size_px=size_px,
        seed=seed,
        overwrite=overwrite,
    )
    out.print(f"wrote {path}")


@worlds_app.command("fit")
def fit_world(
    profile: Annotated[Path | None, typer.Option(help="Folder of profile.json, from physadv calibrate.")] = None,
    photos: Annotated[list[Path] | None, typer.Option(help="Photographs of a known sign; repeat for several.")] = None,
    output: Annotated[Path, typer.Option("--out", help="The world file to write.")] = Path("my-world.yaml"),
    base: Annotated[str, typer.Option(help="The world that says what is not measured, as poses.")] = "drive-by",
    face: Annotated[str, typer.Option(help="The sign in --photos: a drawn one, or FACE.png.")] = "stop",
    face_mm: Annotated[float | None, typer.Option(help="Width of its face in mm.")] = None,
    label: Annotated[str | None, typer.Option(help="Class of FACE.png.")] = None,
    artwork: Annotated[Path | None, typer.Option(help="Folder of the artwork that is on it.")] = None,
    tags: Annotated[Path | None, typer.Option(help="YAML or JSON of tags round the sign.")] = None,
    quads: Annotated[Path | None, typer.Option(help="CSV or JSONL of the face's corners in px.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Folder of sheet.json, hung whole; needs --artwork.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Make a world of a measured printer (--profile), of photographs of a sign (--photos), or of both."""
    sign = KnownSign(face, label, face_mm, artwork, tags, quads, sheet)
    with Console() as console:
        fit = run_fit_world(profile, output, base=base, overwrite=overwrite, photos=photos, sign=sign, console=console)
    if fit.ink is not None:
        shown = ("no printer at all", fit.ink.plain), ("this world", fit.ink.error)
        _table(("colours of the print by", "mean CIEDE2000"), [(name, f"{error:.1f}") for name, error in shown])
    if fit.halves is not None:
        rows = [(name, f"{one.p:.3f}", *(f"{p:.3f}" for p in one.ks.values())) for name, one in fit.halves.rows()]
        _table(("half of the photographs judges; p of", "all together", *STATISTICS), rows)
        out.print(fit.halves.words())
    out.print(f"wrote {output} ({fit.world.hash}); attack in it with --world {output}")


def _show(metrics: dict[str, Any]) -> None:
    """The rates that matter, in one table."""
    judged = metrics["run"]["scenes"]
    out.print(
        f"judged on {judged['spec']}: {', '.join(judged['classes'])}; scenes: {judged['n']}, signs: {judged['groups']}"
    )
    right = f"{rightly(metrics['run']['goal'])} without artwork"
    rows = [(right, metrics["accuracy"]), ("goal reached without artwork", metrics["clean"])]
    if "attacked" in metrics:
        rows += [("attack success, held-out views", metrics["attacked"])]
        rows += [(f"control: {name} stickers", rate) for name, rate in metrics["controls"].items()]
        if "worst_world" in metrics:
            rows += [(f"named world where it works least: {metrics['worst_world']['world']}", metrics["worst_world"])]
        rows += [("promise: worlds nobody optimised in", metrics["promise"])]
    world = metrics["world"]
    _table((f"world {world['name']} ({world['hash']})", "rate [95 %]"), [(name, _percent(rate)) for name, rate in rows])
    if any(told["signs"] for told in metrics.get("detection", {"classes": {}})["classes"].values()):
        _table(("AP50 [95 %]", *metrics["detection"]["mean"]), list(precision_rows(metrics)))
    if "approach" in metrics:
        drives = metrics["approach"]
        late = [(name, _percent(drives[name]["late"])) for name in ("clean", "attacked")]
        _table((f"drives: not found before {drives['braking_m']:.0f} m, too late to stop", "rate [95 %]"), late)
    for remark in remarks(metrics, metrics["run"]["threat"], printed=metrics["run"]["printed"]):
        out.print(f"note: {remark}")


def _percent(rate: dict[str, Any]) -> str:
    if rate["rate"] is None:
        return "no cases"
    low, high = rate["ci95"]
    return f"{100 * rate['rate']:.1f} % [{100 * low:.1f}–{100 * high:.1f}]  ({rate['k']}/{rate['n']})"


def _detector_rows(judged: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [
        (name, _average(one["ap50"]), _percent(one["precision"]), _percent(one["recall"]))
        for name, one in judged["classes"].items()
    ]
    return [*rows, ("mean", _average(judged["mean"]), "", "")]


def _average(one: dict[str, Any]) -> str:
    if one["ap"] is None:
        return "no signs"
    low, high = one["ci95"]
    return f"{one['ap']:.3f} [{low:.3f}–{high:.3f}]  ({one['signs']} signs)"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _command() -> str:
    return shlex.join(["physadv", *sys.argv[1:]])


def _version(wanted: bool) -> bool:
    if wanted:
        out.print(f"physadv {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; bad input gets one sentence and exit code 2."""
    torch.set_flush_denormal(True)  # a quiet photograph makes some networks compute with them: 2.5 times as long
    try:
        app()
    except UserError as error:
        sentence = " ".join(str(error).split())
        Rich(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(("error:", "red"), " ", sentence))
        sys.exit(2)


if __name__ == "__main__":
    main()
