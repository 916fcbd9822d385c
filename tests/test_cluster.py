"""Sweeps: every combination once, refused before anything is submitted, and each training in a job of its own."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from physadv.config import HardenOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.runs.cluster import combinations, run_sweep
from physadv.targets import Classifier, Frame, load_target, save_classifier
from physadv.targets.models import build

COLOURS = {"stop": (190, 20, 30), "yield": (30, 40, 190)}


def test_every_combination_has_its_options_and_its_folder(tmp_path: Path) -> None:
    sweep = ["recipe=warm,pgd", "threat=patch:10%@worst;patch:5%@10,20+linf:8/255", "learning-rate=0.01"]
    options = HardenOptions(out=tmp_path, submit="gpu", sweep=sweep, epochs=3, resume=True)
    made = combinations(options)
    assert len(made) == 4
    assert [(one.recipe, one.threats) for one in made.values()] == [
        (recipe, threats)
        for recipe in ("warm", "pgd")
        for threats in (("patch:10%@worst",), ("patch:5%@10,20", "linf:8/255"))
    ]
    assert {one.epochs for one in made.values()} == {3}
    assert {one.learning_rate for one in made.values()} == {0.01}
    assert all(one.out == tmp_path / name and not one.resume and one.submit is None for name, one in made.items())
    assert all(name.replace("=", "").replace("_", "").replace("-", "").replace(".", "").isalnum() for name in made)


def test_values_that_look_alike_in_a_folder_name_get_folders_of_their_own(tmp_path: Path) -> None:
    made = combinations(HardenOptions(out=tmp_path, sweep=["threat=patch:5%,patch:5"]))
    assert len(made) == len({one.out for one in made.values()}) == 2


def test_a_detector_has_a_batch_of_its_own(tmp_path: Path) -> None:
    given = {"target": "builtin:signs-det", "scenes": "coco:there.json", "out": tmp_path, "submit": "gpu"}
    made = combinations(HardenOptions(**given, sweep=["batch=16,24"]))
    assert [one.batch for one in made.values()] == [16, 24]
    with pytest.raises(UserError, match="multiple of 8"):
        combinations(HardenOptions(**given, sweep=["batch=12"]))
    with pytest.raises(UserError, match="does nothing in the hardening of a detector"):
        combinations(HardenOptions(**given, sweep=["beta=3"]))


def test_without_a_sweep_there_is_one_training(tmp_path: Path) -> None:
    assert [one.out for one in combinations(HardenOptions(out=tmp_path, submit="gpu")).values()] == [tmp_path / "run"]


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (["recipe"], "NAME=VALUE,VALUE"),
        (["recipe="], "NAME=VALUE,VALUE"),
        (["recipes=warm"], "no option of a training"),
        (["out=a,b"], "no option of a training"),
        (["recipe=warm", "recipe=pgd"], "recipe twice"),
        (["recipe=wram"], "did you mean 'warm'"),
        (["epochs=3,many"], "--epochs is 'many'"),
        (["batch=64,70"], "multiple of 32"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(tmp_path: Path, sweep: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        combinations(HardenOptions(out=tmp_path, submit="gpu", sweep=sweep))


def test_it_needs_a_place_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="add --submit"):
        run_sweep(HardenOptions(out=tmp_path / "out", sweep=["recipe=pgd"]), command="", console=Console(quiet=True))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no sbatch|needs submitit"):
        run_sweep(HardenOptions(out=tmp_path / "out", submit="gpu"), command="", console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed: pip install 'physadv[cluster]'")
def test_two_trainings_run_in_jobs_of_their_own(tmp_path: Path) -> None:
    """One recipe is trained by two processes; the other combination fails in its job and says why."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.normal(0, 25, (24, 24, 3)) + np.array(colour) * random.uniform(0.6, 1.2)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"photographs/{name}/{number}.png")
    module = build("tiny-cnn", classes=2, seed=0).eval()
    target = Classifier.of(module, classes=tuple(COLOURS), frame=Frame(32, 0.1), name="net")
    save_classifier(tmp_path / "target", target, "tiny-cnn", {})
    options = HardenOptions(
        out=tmp_path / "out",
        target=f"safetensors:{tmp_path / 'target'}",
        scenes=f"imagefolder:{tmp_path / 'photographs'}",
        staged="none",
        threat=["patch:10%"],
        world="digital",
        resolution_px=4,
        frozen_norm=True,
        submit="local",
        submit_processes=2,
        sweep=["recipe=fast", "scenes=imagefolder:" + str(tmp_path / "photographs") + ",imagefolder:/nowhere"],
        quick=True,
        judge_limit=4,
        judge_steps=1,
    )
    sweep = run_sweep(options, command="physadv harden", console=Console(quiet=True))
    assert json.loads((tmp_path / "out" / "sweep.json").read_text()) == sweep
    done, failed = sweep["trainings"]
    assert done["headline"]
    assert load_target(f"safetensors:{done['out']}").weights_hash != target.weights_hash
    assert "/nowhere" in failed["error"]
    assert done["job"] != failed["job"]
