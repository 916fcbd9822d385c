"""The command line: every command writes what it says; bad input gets one sentence, exit code 2 and no half file."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import physadv
import physadv.cli
from physadv.calibration import load_chart
from physadv.errors import UserError
from physadv.threats import load_artwork

ROOT = Path(__file__).parents[1]
TOY = """
import torch
from physadv.targets.fake import FakeTarget


class Toy(FakeTarget):
    input_size, classes = 16, {classes}

    def forward(self, images):
        return super().forward(images){more}


def make():
    return Toy(3)
"""
QUICK = "--steps 4 --check-every 2 --held-out 4 --batch 2 --views 1 --step-size 0.1 --resolution-px 12 --judge-views 2"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Run:
    """Runs a command line in this process, in a folder of its own, with a toy target in toy.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(physadv.cli.out, "width", 500)
    write_toy(tmp_path / "toy.py")

    def call(*words: str) -> Ended:
        line = [word for part in words for word in (part.split() if "'" not in part else [part.strip("'")])]
        monkeypatch.setattr(sys, "argv", ["physadv", *line])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            physadv.cli.main()
        return Ended(ended.value.code or 0, *capsys.readouterr())

    return call


def write_toy(path: Path, *, classes: tuple[str, ...] = ("yield", "stop", "other"), more: str = "") -> None:
    path.write_text(TOY.format(classes=classes, more=more))


def attack(run: Run, out: str, *more: str) -> Ended:
    return run(f"attack --target python:toy.py:make {QUICK} --out {out}", *more)


def figures(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "metrics.json").read_text())


def rates(folder: str | Path) -> dict:
    """Everything measured, without what was run and how the search went."""
    return {key: value for key, value in figures(folder).items() if key not in ("run", "history")}


def files(folder: str | Path) -> dict[str, bytes]:
    """Every file under a folder, with its content."""
    folder = Path(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def painted(path: Path, size: tuple[int, int] = (40, 40), colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def huge_png(path: Path) -> Path:
    """A header of 50,000 x 50,000 px, and next to nothing behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b""))
    return path


# --- every command


def test_attack_writes_an_artwork_that_stands_alone(run: Run):
    ended = attack(run, "out")
    assert ended.code == 0, ended.err
    assert set(files("out")) == {
        "alpha.png",
        "art.png",
        "artwork.json",
        "checkpoint.safetensors",
        "metrics.json",
        "report.html",
        "run.json",
    }
    metrics = figures("out")
    assert {"accuracy", "clean", "attacked", "controls", "promise", "worst_world", "worlds", "cells"} <= set(metrics)
    assert [entry["step"] for entry in metrics["history"]] == [1, 2, 3, 4]
    said = metrics["run"]
    assert said["command"] == f"physadv attack --target python:toy.py:make {QUICK} --out out"
    assert said["target"]["name"] == "python:toy.py:make"
    assert (said["threat"], said["goal"], said["seed"]) == ("stickers:two-bars", "untargeted", 0)
    assert said["scenes"]["classes"] == ["stop"]
    assert 0.1 < said["covered_share"] < 0.21
    artwork = load_artwork(Path("out"))
    assert artwork.record["threat"] == "stickers:two-bars"
    assert artwork.record["metrics"]["attacked"] == metrics["attacked"]
    html = Path("out/report.html").read_text()
    assert "http" not in html.replace("http://www.w3.org", ""), "self-contained"
    assert f"({metrics['attacked']['k']}/{metrics['attacked']['n']})" in ended.out
    assert "promise" in ended.out
    assert "step 4/4" in ended.err, "progress goes to standard error"


def test_the_same_seed_writes_the_same_picture(run: Run):
    for out, seed in (("one", 0), ("two", 0), ("three", 1)):
        assert attack(run, out, f"--seed {seed}").code == 0
    assert files("one")["art.png"] == files("two")["art.png"] != files("three")["art.png"]
    assert rates("one") == rates("two")


@pytest.mark.parametrize(
    "options",
    [
        "--scenes staged:stop",
        "--scenes staged:stop,yield --threat patch:30%",
        "--scenes staged:stop,yield --threat patch:50%@random",
        "--threat stickers --mask mask.png",
        "--scenes imagefolder:photos --threat linf:8/255 --world digital",
    ],
    ids=["stickers", "patch on two faces", "roaming patch", "own mask", "norm ball"],
)
def test_an_artwork_from_disk_gives_the_figures_of_its_attack(run: Run, options: str):
    painted(Path("photos/stop/1.png"))
    painted(Path("photos/stop/2.png"), colour="darkred")
    mask = painted(Path("mask.png"), (90, 90), "black")
    with Image.open(mask) as image:
        image.paste("white", (20, 20, 70, 60))
        image.save(mask)
    ended = attack(run, "attacked", options)
    assert ended.code == 0, ended.err
    scenes = " ".join(options.split()[:2]) if options.startswith("--scenes") else ""
    world = "--world digital" if "digital" in options else ""
    again = run(f"evaluate --target python:toy.py:make --artwork attacked --judge-views 2 --out again {scenes} {world}")
    assert again.code == 0, again.err
    assert rates("again") == rates("attacked")
    assert "art.png" not in files("again")


def test_an_artwork_finds_its_place_on_other_faces(run: Run):
    """30 % of each face, also of one of another size than those it was made on."""
    attack(run, "attacked", "--scenes staged:stop,yield --threat patch:30%")
    assert run("evaluate --target python:toy.py:make --artwork attacked --scenes staged:yield --out again").code == 0
    assert figures("again")["run"]["covered_share"] == pytest.approx(0.3, abs=1e-3)


def test_judge_takes_other_scenes_than_the_attack(run: Run):
    painted(Path("train/stop/1.png"))
    for number in range(3):
        painted(Path(f"test/stop/{number}.png"), colour="firebrick")
    options = "--scenes imagefolder:train --threat patch:30% --judge imagefolder:test --world digital"
    ended = attack(run, "out", options)
    assert ended.code == 0, ended.err
    assert figures("out")["accuracy"]["n"] == 3 * 2
    assert figures("out")["run"]["scenes"] | {"n": 3, "groups": 3} == figures("out")["run"]["scenes"]
    ended = attack(run, "ball", options.replace("patch:30%", "linf:8/255"))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "--judge" in ended.err


def test_evaluate_the_clean_target_another_target_and_fresh_attacks(run: Run):
    attack(run, "attacked")
    write_toy(Path("other.py"), classes=("stop", "yield", "other"))
    judged = "--judge-views 2 --target python"
    assert run(f"evaluate {judged}:toy.py:make --out clean").code == 0
    assert "attacked" not in figures("clean")
    assert figures("clean")["accuracy"] == figures("attacked")["accuracy"]

    assert run(f"evaluate {judged}:other.py:make --artwork attacked --out transfer").code == 0
    assert figures("transfer")["run"]["target"]["name"] == "python:other.py:make"
    assert figures("transfer")["attacked"] != figures("attacked")["attacked"]

    options = f"evaluate --target python:toy.py:make {QUICK} --attack patch:30% --scenes staged:stop,yield"
    ended = run(f"{options} --out fresh")
    assert ended.code == 0, ended.err
    assert len(load_artwork(Path("fresh"))) == 2, "one per scene"
    refused = run("evaluate --target python:toy.py:make --artwork fresh --out third --scenes staged:stop")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "one per scene" in refused.err


def test_evaluate_never_eats_the_artwork_it_judges(run: Run):
    attack(run, "out")
    before = files("out")
    ended = run("evaluate --target python:toy.py:make --artwork out --out ../" + Path.cwd().name + "/out --overwrite")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert files("out") == before


def test_apply_pastes_onto_a_face_and_onto_a_photograph(run: Run):
    painted(Path("patch.png"), (100, 100), "blue")
    assert run("import patch.png --width-mm 300 --at 300,450 --out out").code == 0
    assert run("apply --artwork out --face stop --out face.png").code == 0
    with Image.open("face.png") as face:
        assert face.size == (768, 768)
        assert face.mode == "RGBA"
        blue = (np.asarray(face)[:, :, :3] == (0, 0, 255)).all(-1)
    # 900 mm are 768 px: the patch spans 150..450 mm across and 300..600 mm down
    assert blue[258:510, 130:382].all()
    assert blue.sum() < 258 * 258
    assert run("apply --artwork out --face stop --face-mm 900 --out same.png").code == 0
    assert files(".")["same.png"] == files(".")["face.png"]

    taken = run("apply --artwork out --face yield --out face.png")
    assert (taken.code, taken.err.count("\n")) == (2, 1)
    assert files(".")["face.png"] == files(".")["same.png"]
    assert run("apply --artwork out --face yield --out face.png --overwrite").code == 0
    assert files(".")["face.png"] != files(".")["same.png"]

    painted(Path("wall.png"), (200, 100), "green")
    quad = "'20,10 180,10 180,90 20,90'"
    ended = run("apply --artwork out --image wall.png --label stop --out wall-with.png --quad", quad)
    assert ended.code == 0, ended.err
    with Image.open("wall-with.png") as picture:
        assert picture.size == (200, 100)
        changed = (np.asarray(picture) != np.array([0, 128, 0])).any(-1)
    # 900 mm are 160 x 80 px from (20, 10): 150..450 mm across are 46.7..100 px, 300..600 mm down are 36.7..63.3 px
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert abs(columns[0] - 46.7) < 2
    assert abs(columns[-1] + 1 - 100) < 2
    assert abs(rows[0] - 36.7) < 2
    assert abs(rows[-1] + 1 - 63.3) < 2


def test_import_makes_an_artwork_of_a_picture(run: Run):
    painted(Path("patch.png"), (20, 10), "blue")
    assert run("import patch.png --width-mm 200 --at 450,300 --out patch").code == 0
    artwork = load_artwork(Path("patch"))
    assert artwork.place_mm.tolist() == [[350.0, 250.0, 550.0, 350.0]]
    assert artwork.rgb[0, :, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert run("evaluate --target python:toy.py:make --artwork patch --judge-views 2 --out judged").code == 0
    assert figures("judged")["run"]["threat"] == "imported"


def test_print_an_artwork_and_a_picture(run: Run):
    attack(run, "out")
    before = files("out")
    assert run("print --artwork out").code == 0
    assert files("out")["sheet.pdf"].startswith(b"%PDF")
    assert json.loads(Path("out/sheet.json").read_text())["origin"] == "sign"
    assert {name: data for name, data in files("out").items() if "sheet" not in name} == before
    refused = run("print --artwork out")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert run("print --artwork out --overwrite --paper a3 --no-tags").code == 0
    painted(Path("picture.png"))
    ended = run("print --image picture.png --width-mm 50 --out sheet")
    assert ended.code == 0
    assert "1 page of a4" in ended.out
    assert "20 mm are read up to about 3.0 m" in ended.out
    tiled = run("print --image picture.png --width-mm 300 --out tiled")
    assert "note: the one piece is in" in tiled.out
    assert "are read up to" not in tiled.out
    assert set(files("sheet")) == {"sheet.pdf", "sheet.json"}


def test_report_puts_runs_side_by_side(run: Run):
    attack(run, "one")
    attack(run, "two", "--seed 1")
    for number, line in enumerate(("--compare one two", "--compare one --compare two")):
        assert run(f"report {line} --out {number}.html").code == 0
    html = Path("0.html").read_text()
    assert html == Path("1.html").read_text()
    assert "one" in html
    assert "two" in html
    for line in ("one two --out 2.html", "--compare one --out 2.html", "--compare one two --out 0.html"):
        ended = run(f"report {line}")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert not Path("2.html").exists()
    assert Path("0.html").read_text() == html


def test_lists_keep_a_row_on_a_line(run: Run):
    targets, threats, worlds = (run(name).out.splitlines() for name in ("targets", "threats", "worlds"))
    kinds = ["builtin", "builtin", "python", "export", "onnx", "safetensors", "hf", "torchvision", "ultralytics"]
    assert [line.split(":")[0] for line in targets[1:]] == kinds
    assert [line.split()[0] for line in threats[1:]] == ["stickers", "patch", "ring", "poster", "shadow", "linf", "l2"]
    named = {line.split()[0]: line.split()[1] for line in worlds[1:]}
    assert {"drive-by", "promise", "digital", "night"} <= set(named)
    assert named["drive-by"] == physadv.load_world("drive-by").hash


def test_worlds_show_draws_a_contact_sheet(run: Run):
    (Path("mine.yaml")).write_text("name: mine\nview:\n  pinhole: {distance_m: [2, 3]}\n")
    assert run("worlds show night --views 5 --size-px 24").code == 0
    assert run("worlds show mine.yaml --views 5 --size-px 24 --scenes staged:stop").code == 0
    for name in ("night.png", "mine.png"):
        with Image.open(name) as sheet:
            assert sheet.size == (5 * 26, 26)
            assert np.asarray(sheet).std() > 10
    assert files(".")["night.png"] != files(".")["mine.png"]
    again = run("worlds show night --views 5 --size-px 24")
    assert (again.code, again.err.count("\n")) == (2, 1)
    attack(run, "out", "--threat patch:60%")
    options = "--views 5 --size-px 24 --scenes staged:stop"
    assert run(f"worlds show mine.yaml {options} --artwork out --out with.png").code == 0
    assert files(".")["with.png"] != files(".")["mine.png"]


def test_train_writes_weights_that_can_be_attacked(run: Run):
    for colour in ("red", "blue"):
        for number in range(4):
            painted(Path(f"signs/{'stop' if colour == 'red' else 'yield'}/{number}.png"), (24 + number, 24), colour)
    options = "--epochs 1 --batch 4 --world digital --scenes imagefolder:signs"
    ended = run(f"train {options} --staged none --judge imagefolder:signs --out net")
    assert ended.code == 0, ended.err
    assert set(files("net")) == {"model.safetensors", "metrics.json", "run.json"}
    assert "accuracy on photographs" in ended.out
    accuracy = figures("net")["accuracy"]["photographs"]
    assert {"digital", "drive-by", "promise"} <= set(accuracy)
    assert accuracy["digital"]["n"] == 8
    assert "epoch 1/1" in ended.err
    ended = run("evaluate --target safetensors:net --scenes imagefolder:signs --judge-views 1 --out judged")
    assert ended.code == 0, ended.err
    refused = run(f"train {options} --out net")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_demo_and_help_and_version(run: Run):
    assert "three minutes" in run("demo --help").out
    version = run("--version")
    assert (version.code, version.out) == (0, f"physadv {physadv.__version__}\n")
    helped = run("attack --help").out
    for option in ("--threat", "--config", "--resume", "--cvar"):
        assert (option in helped) == (option != "--cvar")


def test_the_script_and_the_module_are_the_same_command(tmp_path: Path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "attack", "--goal", "hide", "--out", "out"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (script.returncode, script.stdout) == (2, "")
    assert script.stderr.startswith("error: The goal 'hide' needs a detector")
    assert script.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- options from a file


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(run: Run):
    Path("run.yaml").write_text(
        "target: python:toy.py:make\nsteps: 6\ncheck_every: 3\nheld_out: 4\nbatch: 2\nviews: 1\nresolution_px: 12\n"
        "judge_views: 2\nseed: 5\nthreat: patch:20%\nclasses: [stop]\nscenes: staged:stop,yield\n"
    )
    ended = run("attack --config run.yaml --steps 3 --out out --seed 6")
    assert ended.code == 0, ended.err
    config = figures("out")["run"]["config"]
    assert (config["steps"], config["seed"]) == (3, 6), "from the command line"
    assert (config["threat"], config["batch"], config["classes"]) == ("patch:20%", 2, ["stop"]), "from the file"
    assert config["objective"] == "margin", "by default"
    assert len(figures("out")["history"]) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("step: 3", "did you mean 'steps'"),
        ("steps: many", "steps"),
        ("- 1", "keys and values"),
        ("steps: [", "not readable YAML"),
        ("classes: stop", "classes"),
    ],
)
def test_a_wrong_file_is_refused(run: Run, content: str, said: str):
    Path("run.yaml").write_text(content)
    ended = run("attack --config run.yaml --out out")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert not Path("out").exists()


# --- bad input

BAD_ATTACKS = {
    "missing folder": "--scenes imagefolder:missing",
    "empty folder": "--scenes imagefolder:empty",
    "empty backgrounds": "--backgrounds empty",
    "truncated png": "--scenes photo:cut.png --label stop --quad 5,5,30,5,30,30,5,30",
    "one pixel": "--scenes photo:one.png --label stop --quad 5,5,30,5,30,30,5,30",
    "huge header": "--scenes photo:huge.png --label stop --quad 5,5,30,5,30,30,5,30",
    "huge face": "--scenes staged:huge.png --label stop",
    "huge mask": "--threat stickers --mask huge.png",
    "no picture": "--scenes staged:notes.png",
    "mask of another size": "--threat stickers --mask wide.png",
    "empty mask": "--threat stickers --mask black.png",
    "unknown class of scenes": "--classes stopp",
    "unknown face": "--scenes staged:stopp",
    "unknown class of the goal": "--goal class:stopp",
    "class that the target lacks": "--scenes staged:priority-road",
    "own class": "--goal class:stop",
    "unknown goal": "--goal vanish",
    "goal of detectors": "--goal hide",
    "unknown threat": "--threat stickres",
    "threat too large": "--threat patch:2000mm",
    "norm ball on a staged sign": "--threat linf:8/255",
    "unknown objective": "--objective hinge",
    "unknown optimiser": "--optimiser sgd",
    "unknown expectation": "--expectation median",
    "unknown palette": "--palette cmyk",
    "unknown world": "--world drive-bye",
    "missing world": "--world mine.yaml",
    "unknown key in a world": "--world wrong.yaml",
    "the world that judges": "--world promise",
    "unknown scenes": "--scenes coco:x.json",
    "unknown target": "--target bultin:gtsrb",
    "missing target": "--target python:missing.py:make",
    "nan logits": "--target python:nan.py:make",
    "a pickle as weights": "--target safetensors:weights.safetensors",
    "negative steps": "--steps -5",
    "no views": "--views 0",
    "negative step size": "--step-size -0.1",
    "negative weight": "--tv -1",
    "negative seed": "--seed -1",
    "negative limit": "--limit -1",
    "negative size": "--face-mm -5",
    "resolution": "--resolution-px 0",
    "no such device": "--device cuda:99",
    "no device at all": "--device gpu",
    "overwrite and resume": "--overwrite --resume",
    "missing scenes to judge on": "--judge imagefolder:missing",
    "judged class that the target lacks": "--judge staged:priority-road",
}


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of everything that can be wrong with a file."""
    (tmp_path / "empty").mkdir()
    painted(tmp_path / "one.png", (1, 1))
    painted(tmp_path / "wide.png", (80, 40), "white")
    painted(tmp_path / "black.png", (80, 80), "black")
    huge_png(tmp_path / "huge.png")
    whole = painted(tmp_path / "whole.png", (64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.png").write_text("not a picture")
    (tmp_path / "wrong.yaml").write_text("camera:\n  defocuss: {sigma_px: [0, 1]}\n")
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))
    write_toy(tmp_path / "nan.py", more=" * float('nan')")
    return tmp_path


def refused(ended: Ended) -> None:
    """One sentence that begins with error:, ends with a full stop or question mark, and nothing else."""
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.err
    assert len(ended.err) > 30


@pytest.mark.parametrize("wrong", BAD_ATTACKS.values(), ids=BAD_ATTACKS.keys())
def test_bad_input_gets_one_sentence_and_writes_nothing(run: Run, bad: Path, wrong: str):
    before = files(bad)
    refused(attack(run, "out", wrong))
    assert {name: data for name, data in files(".").items() if "__pycache__" not in name} == {
        "toy.py": Path("toy.py").read_bytes(),
        **before,
    }
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ("class that the target lacks", "--classes"),
        ("unknown key in a world", "'defocus'"),
        ("unknown world", "drive-by?"),
        ("unknown class of the goal", "'stop'"),
        ("unknown threat", "'stickers'"),
        ("huge header", "scale it down"),
        ("mask of another size", "900 x 900 mm"),
        ("a pickle as weights", "safetensors.torch.save_file"),
        ("no such device", "--device cpu"),
        ("the world that judges", "--world"),
        ("negative steps", "--steps"),
    ],
)
def test_the_sentence_says_what_to_do(run: Run, bad: Path, wrong: str, remedy: str):
    assert remedy in attack(run, "out", BAD_ATTACKS[wrong]).err


@pytest.mark.parametrize(
    "wrong", ["--world promise", "--steps 0", "--goal class:stop", "--resume --seed 9", "--resume --palette bw", ""]
)
def test_an_earlier_run_survives_what_is_refused(run: Run, wrong: str):
    """Also with --overwrite, nothing is removed before everything is known to fit."""
    assert attack(run, "out").code == 0
    before = files("out")
    more = "--overwrite" if wrong and "--resume" not in wrong else ""
    refused(attack(run, "out", wrong, more))
    assert files("out") == before


def test_overwrite_replaces_a_run_and_only_a_run(run: Run):
    assert attack(run, "out").code == 0
    before = files("out")["art.png"]
    assert attack(run, "out", "--seed 1 --overwrite").code == 0
    assert files("out")["art.png"] != before
    painted(Path("album/1.png"))
    refused(attack(run, "album", "--overwrite"))
    refused(attack(run, "toy.py"))
    refused(attack(run, "toy.py/inside"))
    assert set(files("album")) == {"1.png"}


def test_nan_in_the_middle_leaves_no_half_artwork(run: Run):
    """The toy turns NaN once it was called often enough: after the load and some steps."""
    write_toy(Path("late.py"), more=" * (float('nan') if self.late() else 1.0)")
    Path("late.py").write_text(
        Path("late.py").read_text() + "\n\ncalls = []\nToy.late = lambda self: calls.append(1) or len(calls) > 6\n"
    )
    ended = run(f"attack --target python:late.py:make {QUICK} --out out")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("error: The target answered NaN")
    assert "Traceback" not in ended.err
    assert set(files("out")) <= {"run.json", "checkpoint.safetensors"}


@pytest.mark.parametrize(
    "line",
    [
        "evaluate --target python:toy.py:make --artwork missing --out out",
        "evaluate --target python:toy.py:make --artwork empty --out out",
        "evaluate --target python:toy.py:make --artwork empty --attack stickers --out out",
        "evaluate --target python:toy.py:make --attack stickers --world promise --out out",
        "evaluate --target python:toy.py:make --attack stickers --steps 0 --out out",
        "evaluate --target python:toy.py:make --scenes staged:priority-road --out out",
        "evaluate --target python:toy.py:make --goal hide --out out",
        "apply --artwork missing --out out",
        "import cut.png --width-mm 50 --at 10,10 --out out",
        "import huge.png --width-mm 50 --at 10,10 --out out",
        "import whole.png --width-mm 0 --at 10,10 --out out",
        "import whole.png --width-mm nan --at 10,10 --out out",
        "import whole.png --width-mm 50 --at here --out out",
        "import whole.png --width-mm 50 --at 10,10 --out toy.py",
        "print --out out",
        "print --artwork missing --out out",
        "print --image whole.png --out out",
        "print --image cut.png --width-mm 50 --out out",
        "print --image whole.png --width-mm 50 --paper a99 --out out",
        "report --compare empty missing --out out",
        "worlds show nightly --out out",
        "worlds show wrong.yaml --out out",
        "worlds show night --views 0 --out out",
        "worlds show night --scenes imagefolder:missing --out out",
        "worlds show night --artwork missing --out out",
        "train --arch vgg --out out",
        "train --scenes imagefolder:missing --out out",
        "train --scenes imagefolder:empty --out out",
        "train --epochs 0 --out out",
        "train --device cuda:99 --out out",
        "train --world nightly --out out",
        "train --judge imagefolder:missing --out out",
    ],
)
def test_every_command_refuses_bad_input(run: Run, bad: Path, line: str):
    before = files(bad)
    refused(run(line))
    assert {name: data for name, data in files(bad).items() if "__pycache__" not in name} == before
    assert not Path("out").exists()


def test_usage_errors_exit_2_too(run: Run):
    for line in ("attack --stepz 5", "attack --steps five", "apply", "fly", "import patch.png"):
        ended = run(line)
        assert ended.code == 2
        assert "Traceback" not in ended.err


def test_the_sentence_stays_on_one_line(run: Run, monkeypatch: pytest.MonkeyPatch):
    def fail(*_args, **_options):
        raise UserError("First half of a sentence,\n  and its second half.")

    monkeypatch.setattr(physadv.cli, "apply_artwork", fail)
    assert run("apply --artwork out").err == "error: First half of a sentence, and its second half.\n"


def test_what_looks_like_markup_is_printed_as_it_is(run: Run):
    ended = run("attack --target python:[/x].py:make --out out")
    refused(ended)
    assert "[/x].py" in ended.err
    assert attack(run, "[bold]").code == 0
    assert "[bold]" in attack(run, "[bold]", "--overwrite").out


def test_a_chart_is_printed_at_its_own_size_and_can_be_read_back(run: Run):
    ended = run("print --chart 24 --out chart")
    assert (ended.code, Path("chart/sheet.pdf").is_file()) == (0, True)
    assert len(load_chart(Path("chart/chart.json")).rgb) == 24
    assert run("print --chart 24 --width-mm 80 --out other").code == 2
    assert run("print --chart 25 --out other").code == 2
    assert not Path("other").exists()
