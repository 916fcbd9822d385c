"""One model per command: the same fields make its command-line options, its YAML file and its defaults."""

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from physadv.attacks import Settings
from physadv.audit.effort import Effort
from physadv.bench.case import BATCH
from physadv.detection_training import DetectorRecipe
from physadv.errors import UserError
from physadv.harden.mixture import split_threats
from physadv.harden.recipe import RECIPES, Plan, parse_recipe
from physadv.harden.trials import Tries
from physadv.training import Recipe

ARGUMENT: dict[str, Any] = {"argument": True}  # given on the command line without its name
DEFAULTS = Settings()
EFFORT = Effort()
RECIPE = Recipe()
DETECTOR_RECIPE = DetectorRecipe()
PLAN = Plan()
TRIED = Tries()
THREAT = "patch:10%@worst"
QUICK: dict[str, Any] = {"epochs": 1, "limit": 300, "judge_limit": 40, "judge_steps": 20, "judge_restarts": 1}


class Options(BaseModel):
    """Options of every command that writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path = Field(Path("physadv-out"), description="Folder for everything that is written.")
    seed: int = Field(0, ge=0, description="Seed of everything that is drawn.")
    device: str = Field("cpu", description="cpu, cuda, cuda:1 ...")
    overwrite: bool = Field(False, description="Replace an earlier run in --out.")


class SceneOptions(Options):
    """Which signs."""

    scenes: str = Field(
        "staged:stop",
        description="staged:FACE, gtsrb:DIR, imagefolder:DIR, photo:FILE, coco:FILE, yolo:FILE; join by +.",
    )
    backgrounds: Path | None = Field(None, description="Folder of pictures to stage signs over.")
    classes: list[str] | None = Field(None, description="Keep the scenes of this class; repeat it for several.")
    limit: int | None = Field(None, description="Keep the first N scenes, spread over tracks.")
    quad: str | None = Field(None, description="photo: the face's corners, 'x,y x,y x,y x,y' from top left, clockwise.")
    label: str | None = Field(None, description="Class of the sign in photo: or staged:.")
    face_mm: float | None = Field(None, gt=0, description="Width of the sign's face in mm, instead of its class's.")
    world: str = Field("drive-by", description="A named world, a YAML file, or several joined by +.")


class TargetOptions(SceneOptions):
    """Which target, and what it is to say."""

    target: str = Field(
        "builtin:gtsrb",
        description="builtin:NAME, python:FILE.py:FACTORY, export:FILE.pt2, onnx:, safetensors:, hf:, torchvision:, "
        "ultralytics: (physadv targets).",
    )
    defence: str | None = Field(None, description="In front of the target: jpeg:75, resize-pad ... (physadv defences).")
    fit: str | None = Field(
        None, description="Clean photographs that a detecting defence learns from (default: staged:all)."
    )
    threshold: float | None = Field(
        None, ge=0.01, lt=1, description="Score from which a detection counts, instead of the detector's own."
    )
    goal: str = Field(
        DEFAULTS.goal, description="untargeted or class:NAME; of detectors: hide, create:NAME, relabel:NAME."
    )


class SearchOptions(TargetOptions):
    """How to search; shared by `attack` and `evaluate --attack`."""

    mask: str | None = Field(None, description="stickers: two-bars, rp2, or a PNG that is white where stickers go.")
    palette: str | None = Field(None, description="any, bw (black and white), printable.")
    resolution_px: int = Field(64, ge=2, le=2048, description="Pixels along the artwork's longer side.")
    objective: str = Field(DEFAULTS.objective, description="margin, cross-entropy; detectors: margin, margin-mean.")
    kappa: float = Field(DEFAULTS.kappa, description="Margin in logits at which a view pulls no more.")
    expectation: str = Field(DEFAULTS.expectation, description="mean, or cvar:0.5 for the worst half of the views.")
    optimiser: str = Field(
        DEFAULTS.optimiser, description="pgd, pgd-l2, adam; gradient-free: random-search, spsa, nes."
    )
    step_size: float | None = Field(DEFAULTS.step_size, description="Step size; each optimiser has its own default.")
    steps: int = Field(DEFAULTS.steps, description="Gradient steps.")
    batch: int = Field(DEFAULTS.batch, description="Scenes per step.")
    views: int = Field(DEFAULTS.views, description="Photographs of each scene per step.")
    restarts: int = Field(DEFAULTS.restarts, description="Searches from new random starts; the best is kept.")
    common: bool = Field(DEFAULTS.common, description="The same views in every step (common random numbers).")
    antithetic: bool = Field(DEFAULTS.antithetic, description="Draw views in antithetic pairs; --views must be even.")
    tv: float = Field(DEFAULTS.tv, description="Weight of total variation.")
    nps: float = Field(DEFAULTS.nps, description="Weight of the non-printability score.")
    check_every: int = Field(
        DEFAULTS.check_every, description="Steps between checks on held-out draws (and checkpoints)."
    )
    held_out: int = Field(DEFAULTS.held_out, description="Held-out photographs that choose the best artwork.")
    precision: str = Field(
        DEFAULTS.precision,
        description="Of the target in the search: float32; bfloat16, faster where there is hardware for it.",
    )
    compiled: bool = Field(DEFAULTS.compiled, description="Compile the target for the search (torch.compile).")
    judge_views: int = Field(0, ge=0, description="Fresh views of each scene that judge; 0: 200 over all, 20 at least.")
    approaches: int = Field(20, ge=0, description="Detectors: drives towards the sign that are simulated; 0 for none.")
    speed_kmh: float = Field(30.0, gt=0, le=60, description="Detectors: of these drives; sets the braking distance.")

    def settings(self, *, per_scene: bool = False) -> Settings:
        """The search itself."""
        shared = {
            name: getattr(self, name) for name in Settings.__dataclass_fields__ if name in type(self).model_fields
        }
        return Settings(**shared, per_scene=per_scene)


class AttackOptions(SearchOptions):
    """Find an artwork."""

    threat: str = Field("stickers", description="stickers, patch:80mm, patch:10%, ring:4%, poster:0.3, linf:8/255 ...")
    judge: str | None = Field(None, description="Other scenes to judge on; otherwise held-out views of the same.")
    judge_backgrounds: Path | None = Field(None, description="Other pictures to stage the judged signs over.")
    closest: str | None = Field(None, description="Least visible artwork: l2, linf (of its colours), seen (in views).")
    rounds: int = Field(6, ge=1, description="--closest: searches of --steps each, for the best weight of the loss.")
    needed: float | None = Field(
        None, gt=0, le=1, description="--closest: share of held-out views to win (default: 0.9; all, without chance)."
    )
    resume: bool = Field(False, description="Continue from the checkpoint in --out.")

    def nearest(self, *, chance: bool) -> "AttackOptions":
        """What --closest takes for options that were not given: Adam, and no more margin than views need."""
        own = {"optimiser": "adam", "needed": 0.9} if chance else {"optimiser": "adam", "needed": 1.0, "kappa": 0.0}
        return self.model_copy(update={name: own[name] for name in own.keys() - self.model_fields_set})


class EvaluateOptions(SearchOptions):
    """Judge an artwork, a fresh attack per scene, or the clean target."""

    artwork: Path | None = Field(None, description="Folder of an artwork; without it the clean signs are judged.")
    attack: str | None = Field(None, description="Threat of a fresh attack on every scene, instead of an artwork.")


class AuditOptions(TargetOptions):
    """Is the target robust, or was the attack weak?"""

    scenes: str = Field("staged:all", description="Photographs to audit on, for example gtsrb:DIR; or staged signs.")
    limit: int | None = Field(300, description="Scenes (clean views of staged signs) at most, spread over tracks.")
    threat: str = Field("linf:8/255", description="linf:8/255, l2:0.5; or printed: patch:10%, stickers, poster:0.3 ...")
    mask: str | None = Field(None, description="stickers: two-bars, rp2, or a PNG that is white where stickers go.")
    palette: str | None = Field(None, description="any, bw (black and white), printable.")
    resolution_px: int = Field(64, ge=2, le=2048, description="Pixels along the artwork's longer side.")
    steps: int = Field(EFFORT.steps, ge=4, description="Steps of a gradient attack; the longest takes 4 times as many.")
    restarts: int = Field(EFFORT.restarts, ge=1, description="Random starts of the longest attack.")
    queries: int = Field(EFFORT.queries, ge=8, description="Photographs per scene for the attack without gradients.")
    compared: int = Field(EFFORT.compared, ge=8, description="Scenes of attacks that only validate the others.")
    batch: int = Field(EFFORT.batch, ge=1, description="Scenes attacked at once.")

    def effort(self) -> Effort:
        """How hard to try."""
        return Effort(**{name: getattr(self, name) for name in Effort.__dataclass_fields__})


class ScanOptions(TargetOptions):
    """Try a sticker everywhere."""

    sizes: str | None = Field(None, description="Shares of the face or widths, 15%,30%; or the artwork's own size.")
    colours: str | None = Field(None, description="Of stickers of one colour: black, white, grey; black,white.")
    artwork: Path | None = Field(None, description="Folder of an artwork to try everywhere, instead of plain stickers.")
    grid: int = Field(12, ge=1, le=100, description="Places along each side of the face's box.")
    views: int = Field(128, ge=1, description="Photographs of each candidate, spread over the scenes.")
    judge_views: int = Field(200, ge=1, description="Fresh photographs that judge the best place and all others.")


class CalibrateOptions(Options):
    """Measure a printer and its photographs by a colour chart."""

    photos: Path | None = Field(
        None, description="Folder of photographs of the chart, or one photograph.", json_schema_extra=ARGUMENT
    )
    chart: Path | None = Field(None, description="chart.json of the chart (docs/calibration.md).")
    sheet: Path | None = Field(None, description="Folder of the chart's sheet.json: its tags say where the chart is.")
    corners: Path | None = Field(None, description="CSV of the chart's corners in px, for photographs without tags.")


def _default(name: str) -> str:
    return f" (default: {getattr(RECIPE, name):g}; of detectors {getattr(DETECTOR_RECIPE, name):g})."


class TrainOptions(SceneOptions):
    """Train a classifier, or a detector on photographs with boxes."""

    scenes: str = Field("staged:all", description="Photographs to train on: gtsrb:DIR ...; of detectors coco:FILE ...")
    staged: str | None = Field("staged:all", description="Faces to stage beside the photographs ('none' for none).")
    arch: str = Field("small-cnn", description="small-cnn or small-resnet; of detectors signs-det.")
    world: str = Field(
        "digital+drive-by", description="The augmentation: worlds that the photographs are seen through."
    )
    context: float = Field(0.1, ge=0, le=2, description="Margin round the sign's box, as a share of its side.")
    epochs: int | None = Field(None, ge=1, description=f"Passes over the photographs{_default('epochs')}")
    batch: int | None = Field(None, ge=2, description=f"Images per step{_default('batch')}")
    learning_rate: float | None = Field(
        None, gt=0, description=f"Peak of the one-cycle schedule{_default('learning_rate')}"
    )
    judge: str | None = Field(None, description="Photographs to report the accuracy on, never used in training.")
    resume: bool = Field(False, description="Detectors: continue from the checkpoint in --out.")


class HardenOptions(SceneOptions):
    """Train a target against the attack itself."""

    target: str = Field(
        "builtin:gtsrb", description="What to harden: builtin:NAME, safetensors:DIR or python:FILE.py:FACTORY."
    )
    scenes: str = Field("staged:all", description="Photographs to train on: gtsrb:DIR ...; of detectors coco:FILE ...")
    staged: str | None = Field("staged:all", description="Faces to stage beside the photographs ('none' for none).")
    threat: list[str] | None = Field(
        None,
        description=f"What to resist; repeat it, or join by +, for a mixture (default: {THREAT}).",
    )
    mask: str | None = Field(None, description="stickers: two-bars, rp2, or a PNG that is white where stickers go.")
    palette: str | None = Field(None, description="any, bw (black and white), printable.")
    resolution_px: int = Field(16, ge=2, le=256, description="Pixels along the longer side of artworks in training.")
    world: str = Field("digital+drive-by", description="The worlds that training sees, joined by +.")
    recipe: str = Field(PLAN.recipe.name, description=f"How to train: {', '.join(RECIPES)} (docs/hardening.md).")
    epochs: int = Field(PLAN.epochs, ge=1, description="Passes over the photographs.")
    batch: int = Field(PLAN.batch, ge=1, description=f"Images per step, a multiple of {PLAN.shard}.")
    learning_rate: float = Field(PLAN.learning_rate, gt=0, description="Peak of the cosine schedule.")
    weight_decay: float = Field(PLAN.weight_decay, ge=0, description="Of AdamW, on convolutions and matrices.")
    smoothing: float = Field(PLAN.smoothing, ge=0, lt=1, description="Of the labels: this share goes to all classes.")
    ema: float = Field(
        PLAN.ema, ge=0, lt=1, description="Decay of the averaged weights, which are those that are kept."
    )
    attacked: float = Field(PLAN.attacked, description="Share of the images that carry an artwork.")
    beta: float = Field(PLAN.beta, ge=0, description="trades: weight of the divergence from the clean answer.")
    awp: float = Field(PLAN.awp, ge=0, lt=1, description="Adversarial weight perturbation, 0.005 or so; 0: none.")
    frozen_norm: bool = Field(PLAN.frozen_norm, description="Batch normalisation keeps its statistics.")
    patience: int = Field(PLAN.patience, ge=0, description="Epochs without a better held-out figure; 0: never early.")
    from_scratch: bool = Field(False, description="Begin with new weights of the same architecture.")
    inner_steps: int | None = Field(None, ge=1, description="Steps of each inner search, instead of the recipe's.")
    candidates: int | None = Field(None, ge=1, description="@worst: places tried per image, instead of the recipe's.")
    unlabelled: str | None = Field(None, description="Photographs whose labels are not used: semi-supervision.")
    variant: str = Field("rst", description="--unlabelled: rst, uat-ft, uat-ot or uat++ (docs/hardening.md).")
    unlabelled_weight: float = Field(0.5, gt=0, le=1, description="--unlabelled: of these losses beside the others'.")
    judge: str | None = Field(None, description="Scenes to judge on, never trained on (default: the held-out tracks).")
    judge_limit: int = Field(300, ge=0, description="Scenes that judge, the tracks taking turns; 0: all.")
    judge_steps: int = Field(TRIED.steps, ge=1, description="Steps of the attacks that judge.")
    judge_restarts: int = Field(TRIED.restarts, ge=1, description="Their starts, each at another worst place.")
    beside: list[str] | None = Field(
        None, description="Another hardened target in the matrix of sizes; repeat it for several."
    )
    audit: bool = Field(False, description="Audit the hardened model, too: robust, or masked gradients?")
    tensorboard: bool = Field(False, description="Write events for TensorBoard into --out.")
    resume: bool = Field(False, description="Continue from the checkpoint in --out.")
    submit: str | None = Field(None, description="Train on a cluster: the SLURM partition; 'local': this machine.")
    sweep: list[str] | None = Field(
        None, description="--submit: NAME=VALUE,VALUE, a training for each; repeat it for every combination."
    )
    submit_processes: int = Field(1, ge=1, description="--submit: of each training; with cuda, each has a GPU.")
    submit_minutes: int = Field(720, ge=1, description="--submit: after which a training goes on in another job.")
    quick: bool = Field(False, description="A trial run: one epoch of 300 scenes, 40 judged with 20 steps each.")

    @property
    def threats(self) -> tuple[str, ...]:
        """Each threat of the mixture once."""
        return split_threats(self.threat or [THREAT])

    def hurried(self) -> "HardenOptions":
        """With what --quick takes for options that were not given."""
        own = QUICK if self.quick else {}
        return self.model_copy(update={name: own[name] for name in own.keys() - self.model_fields_set})

    def plan(self) -> Plan:
        """The outer loop. UserError: no such recipe, an impossible batch or share."""
        recipe = parse_recipe(self.recipe)
        steps, candidates = self.inner_steps or recipe.steps, self.candidates or recipe.candidates
        shared = {name: getattr(self, name) for name in Plan.__dataclass_fields__ if name in type(self).model_fields}
        return Plan(**shared | {"recipe": replace(recipe, steps=steps, candidates=candidates)})


class CaptureOptions(Options):
    """Judge photographs of the printed thing."""

    photos: str | None = Field(
        None, description="Folder of photographs, a video, or the number of a camera.", json_schema_extra=ARGUMENT
    )
    artwork: Path | None = Field(None, description="Folder of the artwork on the sign; without it, the sign is clean.")
    sheet: Path | None = Field(None, description="Folder of sheet.json, hung whole: its tags say where the sign is.")
    tags: Path | None = Field(None, description="YAML or JSON of tags round the sign: their corners in mm.")
    quads: Path | None = Field(None, description="CSV or JSONL of the face's corners in px: photographs without tags.")
    face: str = Field("stop", description="The sign: a drawn one, or FACE.png.")
    label: str | None = Field(None, description="Class of FACE.png.")
    face_mm: float | None = Field(None, gt=0, description="Width of the sign's face in mm, instead of its class's.")
    focal_px: float | None = Field(None, gt=0, description="Focal length of all photographs, instead of their EXIF's.")
    frames: int | None = Field(None, ge=1, description="Frames of a video (default: all) or camera (default: 30).")
    target: str = Field("builtin:gtsrb", description="As for evaluate.")
    goal: str = Field(DEFAULTS.goal, description="untargeted or class:NAME.")
    world: str = Field("drive-by", description="The world that foretells, its camera where the photograph's was.")
    profile: Path | None = Field(None, description="From calibrate: the sheet's colour strip tells print and light.")
    backgrounds: Path | None = Field(None, description="Folder of pictures behind the sign in the views foretold.")
    views: int = Field(16, ge=1, description="Views foretold per photograph.")
    gap: int = Field(40, ge=0, description="Photographs by which the gap is split into stages; 0: it is not.")
    speed_kmh: float = Field(30.0, gt=0, le=300, description="Videos: of the car; sets the braking distance.")
    resume: bool = Field(False, description="Keep captures.csv in --out, and judge the photographs that it lacks.")


class SamplesOptions(Options):
    """How many samples robustness takes: in the Gaussian model, or (with --scenes) for photographs."""

    d: int | None = Field(None, description="Model: dimensions (default: 3072, 32 x 32 px in colour).")
    sigma: float | None = Field(None, description="Model: noise, in units of the class mean (default: d^(1/4)).")
    epsilon: str | None = Field(
        None, description="Change of every value. Model: units of the class mean (default: 0.25). Photographs: 2/255."
    )
    goal_error: float | None = Field(None, description="Model: the error to reach, below 0.5 (default: 0.01).")
    scenes: str | None = Field(None, description="Photographs to train on, for example gtsrb:DIR/train.")
    judge: str | None = Field(None, description="Photographs of other signs to judge on, for example gtsrb:DIR/test.")
    arch: str = Field("tiny-cnn", description="tiny-cnn, small-cnn or small-resnet.")
    sizes: str = Field("1/16,1/10,1/6,1/4", description="Shares of the photographs to train on, or their numbers.")
    seeds: int = Field(3, ge=1, description="Trainings per size and kind, each on signs of its own choice.")
    judge_photographs: int = Field(408, ge=1, description="Photographs of --judge, the signs taking turns.")
    goal_accuracy: float = Field(0.8, gt=0, lt=1, description="Robust accuracy to reach.")
    verify: bool = Field(False, description="Train on all photographs, too, and compare with what was foretold.")
    resume: bool = Field(False, description="Keep the trainings in --out, and do those that are missing.")


class BenchOptions(Options):
    """What a step of the attack costs."""

    only: list[str] | None = Field(
        None, description="This target alone; repeat it for several: cnn-64, resnet18-224, resnet50-224 ..."
    )
    batch: int = Field(BATCH, ge=1, description="Photographs of a step.")
    precision: str = Field(DEFAULTS.precision, description="Of the target, bare and attacked: float32, bfloat16.")
    compiled: bool = Field(DEFAULTS.compiled, description="Compile the target that the attack asks (torch.compile).")
    repeats: int = Field(9, ge=3, description="Rounds in which all take turns; the median counts.")
    quick: bool = Field(False, description="The smallest target, and no peers.")


Model = TypeVar("Model", bound=Options)


def configure(model: type[Model], given: dict[str, Any], config: Path | None) -> Model:
    """Options given on the command line, over those of a YAML file, over the defaults."""
    said = _read(config) if config else {}
    for key in said:
        if key not in model.model_fields:
            near = get_close_matches(str(key), model.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(model.model_fields)}."
            raise UserError(f"{config}: unknown key {key!r}; {hint}")
    try:
        return model(**(said | {name: value for name, value in given.items() if value is not None}))
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{where} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}.") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"There is no configuration file {path}; check the path given to --config.")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML: {str(error).splitlines()[0]}; mend that line.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, such as `steps: 400`.")
    return {str(key).replace("-", "_"): value for key, value in content.items()}
