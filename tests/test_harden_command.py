"""physadv harden: from options to weights, tables and pages; resuming; what judges; bad input."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from physadv.config import HardenOptions, configure
from physadv.console import Console
from physadv.errors import UserError
from physadv.files import read_tensors
from physadv.harden import journal as journal_module
from physadv.harden import judge as judge_module
from physadv.harden import watch as watch_module
from physadv.harden.journal import HISTORY, Journal
from physadv.harden.judge import (
    PICTURES,
    Ledger,
    Outcome,
    Pair,
    attempt,
    clean_rates,
    fingerprint,
    gain,
    matrix,
    rates,
)
from physadv.harden.loop import Epoch
from physadv.harden.mixture import load_mixture, parse_mixture, split_threats
from physadv.harden.trials import SIZES, Trial, Tries, trained_sizes, trials
from physadv.harden.watch import checker, held_out_scenes
from physadv.report.card import card
from physadv.report.harden import harden_headline, harden_tables
from physadv.runs import hardened as hardened_module
from physadv.runs import run_harden
from physadv.runs.hardened import JUDGED, STATE
from physadv.scenes import Scenes, load_scenes
from physadv.scenes.base import floats
from physadv.targets import build, load_target, save_classifier
from physadv.targets.base import Classifier, Frame
from physadv.targets.fake import blind_classifier
from physadv.transforms.world import DIGITAL, load_world

COLOURS = {"stop": (190, 20, 30), "yield": (30, 40, 190), "priority-road": (200, 180, 20)}
NAMES = tuple(sorted(COLOURS))
TOY = """
from physadv.targets.fake import FakeTarget


class Toy(FakeTarget):
    input_size, classes = 16, {classes}


def make():
    return Toy(3)
"""
SMALL = {
    "staged": "none",
    "world": "digital",
    "batch": 32,
    "epochs": 1,
    "judge_limit": 4,
    "judge_steps": 2,
    "judge_restarts": 1,
    "candidates": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-six noisy pictures of three colours, each a sign of its own, and an untrained network that knows them."""
    folder, random = tmp_path_factory.mktemp("harden"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / "signs" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.normal(0, 25, (24, 24, 3)) + np.array(colour) * random.uniform(0.6, 1.2)
            path = folder / "signs" / name / f"{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    save_classifier(folder / "net", tiny(), "tiny-cnn", {})
    for name, colour in COLOURS.items():
        (folder / "others" / name).mkdir(parents=True)
        for number in range(2):
            pixels = random.normal(0, 25, (24, 24, 3)) + np.array(colour) * random.uniform(0.6, 1.2)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "others" / name / f"{number}.png")
    (folder / "toy.py").write_text(TOY.format(classes=NAMES))
    return folder


def tiny() -> Classifier:
    return Classifier.of(build("tiny-cnn", classes=3, seed=0).eval(), classes=NAMES, frame=Frame(32, 0.1), name="tiny")


def options(folder: Path, out: Path, **more) -> HardenOptions:
    scenes = f"imagefolder:{folder / 'signs'}"
    return HardenOptions(**({"target": f"safetensors:{folder / 'net'}", "scenes": scenes, "out": out} | SMALL | more))


def hardened(options: HardenOptions) -> dict:
    return run_harden(options, command="physadv harden ...", console=Console(quiet=True))


@pytest.fixture(scope="module")
def done(folder: Path) -> tuple[Path, dict]:
    """One run, end to end."""
    out = folder / "done"
    judge = f"imagefolder:{folder / 'others'}"
    return out, hardened(options(folder, out, epochs=2, judge=judge, threat=["patch:10%@worst+ring:4%"]))


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged by three attacks and one size."""
    monkeypatch.setattr(hardened_module, "trials", lambda *words, **how: trials(*words, **how)[:3])
    monkeypatch.setattr(hardened_module, "SIZES", (5,))


# --- the run


def test_it_writes_what_it_says(done: tuple[Path, dict]):
    out, metrics = done
    wanted = {"model.safetensors", "metrics.json", "report.html", "card.md", HISTORY, JUDGED, "run.json"}
    assert {path.name for path in out.iterdir()} == wanted | {"checkpoint.safetensors"}
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    lines = [json.loads(line) for line in (out / HISTORY).read_text().splitlines()]
    assert lines == metrics["history"]
    assert [line["epoch"] for line in lines] == [1, 2]


def test_the_file_holds_what_was_judged_and_it_differs_from_the_start(folder: Path, done: tuple[Path, dict]):
    out, metrics = done
    hashes = [load_target(f"safetensors:{place}").weights_hash for place in (folder / "net", out)]
    assert [metrics["run"][side]["weights_hash"] for side in ("target", "hardened")] == hashes
    assert hashes[0] != hashes[1]
    assert read_tensors(out / "model.safetensors")[1]["record"]["trained_sizes"] == [10.0]


def test_the_metrics_hold_every_row_twice_and_their_difference(done: tuple[Path, dict]):
    _, metrics = done
    assert set(metrics) == {"clean", "attacks", "matrix", "training", "history", "load", "run", "headline"}
    for one in metrics["attacks"]:
        low, high = one["difference"]["ci95"]
        change = one["after"]["robust"]["rate"] - one["before"]["robust"]["rate"]
        assert one["difference"]["difference"] == pytest.approx(change)
        assert low - 1e-9 <= change <= high + 1e-9
        assert one["trained"] == (not one["novel"])
        assert one["before"]["robust"]["rate"] <= metrics["clean"][one["world"]]["before"]["rate"]
    trained = [(one["name"], one["world"]) for one in metrics["attacks"] if one["trained"]]
    assert trained == [("patch:10%@worst", "digital"), ("ring:4%", "digital")]
    assert set(metrics["clean"]) == {"digital", "drive-by"}
    assert metrics["training"]["recipe"]["name"] == "warm"
    assert not metrics["run"]["scenes"]["chose"]


def test_page_and_card_say_what_was_trained_on(done: tuple[Path, dict]):
    out, metrics = done
    page, said = (out / "report.html").read_text(), (out / "card.md").read_text()
    assert metrics["headline"] == harden_headline(metrics)
    for text in ("trained on", "new: size", "new: place, world", "ring:4%", "any plain sticker"):
        assert text in page
        assert text in said
    assert f"--target safetensors:{out}" in said
    assert said == card(metrics)
    assert page.count('class="own"') >= 2
    assert "://" not in page


def test_the_matrix_has_a_row_for_each_target_and_a_star_where_it_was_trained(done: tuple[Path, dict]):
    _, metrics = done
    first, this = metrics["matrix"]
    assert (first["name"], this["name"]) == ("undefended", "this one")
    assert [cell["size"] for cell in this["cells"]] == sorted([*SIZES, 10])
    assert [cell["size"] for cell in this["cells"] if cell["trained"]] == [10]
    (_, (head, rows)) = harden_tables(metrics)
    assert head[2:] == ("5 %", "8 %", "10 %", "12 %", "16 %", "20 %")
    assert rows[1][4].endswith("*")


# --- going on


def test_a_run_that_was_killed_ends_at_the_same_bits(folder: Path, tmp_path: Path, done: tuple[Path, dict]):
    whole, _ = done

    class Killed(Console):
        def hardening(self, epoch: Epoch) -> None:
            raise KeyboardInterrupt

    out, judge = tmp_path / "out", f"imagefolder:{folder / 'others'}"
    said = options(folder, out, epochs=2, judge=judge, threat=["patch:10%@worst", "ring:4%"])
    with pytest.raises(KeyboardInterrupt):
        run_harden(said, command="", console=Killed(quiet=True))
    assert not (out / "model.safetensors").exists()
    with pytest.raises(UserError, match="other options"):
        hardened(said.model_copy(update={"resume": True, "attacked": 0.9}))
    shutil.copy(whole / JUDGED, out / JUDGED)  # what is judged already is not judged again
    hardened(said.model_copy(update={"resume": True}))
    first, second = (read_tensors(place / "model.safetensors")[0] for place in (whole, out))
    assert all(torch.equal(first[name], second[name]) for name in first)
    epochs = [[json.loads(line) for line in (place / HISTORY).read_text().splitlines()] for place in (whole, out)]
    assert [one["robust"] for one in epochs[0]] == [one["robust"] for one in epochs[1]]


def test_what_is_judged_is_not_attacked_again(folder: Path, done: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch):
    out, metrics = done
    monkeypatch.setattr(judge_module, "attempt", lambda *_, **__: pytest.fail("attacked again"))
    said = options(folder, out, epochs=2, judge=f"imagefolder:{folder / 'others'}", resume=True)
    again = hardened(said.model_copy(update={"threat": ["patch:10%@worst+ring:4%"]}))
    assert again["attacks"] == metrics["attacks"]


def test_a_ledger_of_other_scenes_is_not_read(tmp_path: Path):
    target, trial = blind_classifier(), Trial("ring:4%", DIGITAL, Tries())
    outcome = Outcome(torch.tensor([[True, False]]), torch.tensor([[False, False]]))
    Ledger(tmp_path / "judged.json", {"judge": "a"}).outcome(target, trial, lambda: outcome)
    known = Ledger(tmp_path / "judged.json", {"judge": "a"}).outcome(target, trial, lambda: pytest.fail("made again"))
    assert torch.equal(known.clean, outcome.clean)
    other = Outcome(~outcome.clean, outcome.right)
    found = Ledger(tmp_path / "judged.json", {"judge": "b"}).outcome(target, trial, lambda: other)
    assert torch.equal(found.clean, other.clean)


def test_a_ledger_of_other_photographs_under_the_same_name_is_not_read(tmp_path: Path, few: Scenes):
    target, trial = blind_classifier(), Trial("ring:4%", DIGITAL, Tries())
    first, second = (Outcome(torch.tensor([[one]]), torch.tensor([[one]])) for one in (True, False))
    path, told = tmp_path / "judged.json", {"judge": "a"}
    marks = [fingerprint(one) for one in (few, few, few.relabelled(few.labels + 1), brighter(few))]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 3
    Ledger(path, told).outcome(target, trial, lambda: first)  # as an earlier version wrote it
    known = Ledger(path, told | {PICTURES: marks[0]}).outcome(target, trial, lambda: pytest.fail("made again"))
    assert torch.equal(known.clean, first.clean)
    Ledger(tmp_path / "new.json", told | {PICTURES: marks[0]}).outcome(target, trial, lambda: first)
    found = Ledger(tmp_path / "new.json", told | {PICTURES: marks[3]}).outcome(target, trial, lambda: second)
    assert torch.equal(found.clean, second.clean)


def brighter(scenes: Scenes) -> Scenes:
    return replace(scenes, images=scenes.images // 2 if scenes.images.dtype == torch.uint8 else scenes.images / 2)


def test_somebody_elses_module_gets_a_state_file(folder: Path, tmp_path: Path, briefly: None):
    out = tmp_path / "out"
    metrics = hardened(options(folder, out, target=f"python:{folder / 'toy.py'}:make"))
    state, _ = read_tensors(out / STATE)
    assert set(state) == {"directions"}
    assert not (out / "model.safetensors").exists()
    assert "load_state_dict" in metrics["load"]
    assert metrics["run"]["scenes"]["chose"]
    with pytest.raises(UserError, match="FACTORY return new weights"):
        hardened(options(folder, tmp_path / "b", target=f"python:{folder / 'toy.py'}:make", from_scratch=True))


def test_from_scratch_begins_anew_and_compares_with_what_was_given(folder: Path, tmp_path: Path, briefly: None):
    base = {"learning_rate": 1e-9, "epochs": 1}
    metrics = hardened(options(folder, tmp_path / "a", from_scratch=True, seed=3, **base))
    fresh = build("tiny-cnn", classes=3, seed=3).state_dict()["head.1.weight"]
    assert torch.allclose(load_target(f"safetensors:{tmp_path / 'a'}").module.state_dict()["head.1.weight"], fresh)
    assert metrics["run"]["target"]["weights_hash"] == load_target(f"safetensors:{folder / 'net'}").weights_hash


# --- options


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"target": "export:model.pt2"}, "cannot be trained"),
        ({"target": "onnx:model.onnx"}, "cannot be trained"),
        ({"threat": ["patch:10%@wurst"]}, "no place"),
        ({"threat": ["patch:10%+sticker"]}, "no threat"),
        ({"mask": "two-bars"}, "says where stickers go"),
        ({"palette": "bw", "threat": ["linf:2/255"]}, "--palette"),
        ({"recipe": "worm"}, "'warm'"),
        ({"batch": 33}, "multiple of 32"),
        ({"attacked": 0.0}, "above 0"),
        ({"world": "promise"}, "only judges"),
        ({"scenes": "staged:stop,yield", "threat": ["linf:2/255"]}, "staged signs have none"),
        ({"resume": True}, "no run in"),
        ({"judge": "imagefolder:nowhere"}, "nowhere"),
        (
            {"judge": "imagefolder:{folder}/signs", "judge_limit": 0},
            "36 of the 36 photographs of --judge are also trained on",
        ),
        ({"judge": "imagefolder:{folder}/signs", "classes": ["stop", "yield"], "judge_limit": 0}, "24 of the 24"),
        ({"audit": True}, "name them with --judge"),
        ({"threat": ["linf:2/255"], "unlabelled": "staged:stop,yield"}, "not staged signs"),
        ({"beside": ["safetensors:nowhere"]}, "nowhere"),
        ({"variant": "nonsense"}, "no variant 'nonsense'"),
        ({"variant": "uat-ft"}, "add --unlabelled"),
        ({"unlabelled_weight": 0.1}, "add --unlabelled"),
        ({"device": "cuda:7"}, "not there"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(folder: Path, tmp_path: Path, given: dict, said: str):
    out = tmp_path / "out"
    target = {"target": "builtin:gtsrb"} if "staged" in str(given.get("scenes")) else {}
    given = {name: one.format(folder=folder) if isinstance(one, str) else one for name, one in given.items()}
    with pytest.raises(UserError, match=said) as raised:
        hardened(options(folder, out, **(target | given)))
    assert str(raised.value).count("\n") == 0
    assert not out.exists()


def test_tensorboard_is_asked_for_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install"):
        hardened(options(folder, tmp_path / "out", tensorboard=True))
    assert not (tmp_path / "out").exists()


def test_tensorboard_gets_steps_and_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[tuple[str, float, int]] = []

    class Writer:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            said.append((name, value, step))

        def close(self) -> None:
            said.append(("closed", 0.0, 0))

    monkeypatch.setattr(journal_module, "_writer", lambda folder: Writer())
    journal = Journal(tmp_path, tensorboard=True)
    journal.step(1, 0.5)
    journal.epoch(Epoch(1, 2, 0.5, 0.25, 1.0, 3.0, 3.0))
    journal.close()
    assert said == [("loss", 0.5, 1), ("held out/robust", 0.25, 1), ("held out/clean", 1.0, 1), ("closed", 0.0, 0)]


def test_quick_keeps_what_was_given(folder: Path, tmp_path: Path):
    quick = HardenOptions(quick=True, epochs=7).hurried()
    assert (quick.epochs, quick.judge_limit, quick.judge_restarts) == (7, 40, 1)
    assert HardenOptions().hurried().judge_limit == 300


def test_the_plan_takes_the_recipe_and_what_replaces_it():
    plan = configure(HardenOptions, {"recipe": "location", "inner_steps": 3, "beta": 6.0}, None).plan()
    assert (plan.recipe.name, plan.recipe.steps, plan.recipe.candidates, plan.beta) == ("location", 3, 16, 6.0)


def test_threats_are_joined_by_plus_or_repeated():
    assert split_threats(["patch:5%@worst+ring:4%", "linf:2/255", "ring:4%"]) == (
        "patch:5%@worst",
        "ring:4%",
        "linf:2/255",
    )
    specs = parse_mixture(["stickers", "patch:10%"], mask="rp2", palette="bw")
    assert [spec.palette for spec in specs.values()] == ["bw", "bw"]


def test_staged_scenes_take_the_printed_threats_only():
    how = {"mask": None, "palette": None, "resolution_px": 8, "seed": 0}
    found = load_mixture(["linf:2/255", "patch:10%"], load_scenes("staged:stop,yield"), **how)
    assert [threat.name for threat in found] == ["patch:10%"]


# --- what judges


def test_the_trials_are_the_trained_ones_first_and_no_other_of_them():
    made = trials(["patch:12%@worst", "linf:2/255"], world=DIGITAL, tries=Tries(), staged=False)
    assert [one.name for one in made if one.trained] == ["patch:12%@worst", "linf:2/255"]
    digital = [one for one in made if one.world.name == "digital"]
    assert len({one.key for one in made}) == len(made)
    novel = {one.name: one.novel for one in digital}
    assert novel["patch:5%@worst"] == ("size",)
    assert novel["patch:12%"] == ("place",)
    assert novel["linf:4/255"] == ("ball",)
    assert novel["patch:12%@worst, adam"] == ("optimiser",)
    assert novel["patch:12%@worst, random-search"] == ("no gradient",)
    physical = {one.name: one.novel for one in made if one.world.name == "drive-by"}
    assert physical["patch:12%@worst"] == ("world",)
    assert physical["stickers:rp2"] == ("shape", "world")
    assert not any("linf" in name for name in physical)
    tried = {one.name: (one.tries.restarts, one.tries.steps) for one in digital}
    assert tried["patch:12%@worst"] == (5, 100)
    assert tried["patch:5%@worst"] == (2, 50)


def test_what_is_spelled_otherwise_is_not_new():
    made = trials(["stickers", "patch:8.0%@worst"], world=DIGITAL, tries=Tries(), staged=False, mask="two-bars")
    digital = {one.threat: one.novel for one in made if one.world.name == "digital" and one.optimiser == "pgd"}
    assert "stickers:two-bars" not in digital
    assert "patch:8%@worst" not in digital
    assert digital["stickers:rp2"] == ("mask",)
    assert digital["patch:5%@worst"] == ("size",)
    other = trials(["stickers"], world=DIGITAL, tries=Tries(), staged=False, mask="rp2")
    assert {one.threat: one.novel for one in other if not one.plain}["stickers:two-bars"] == ("mask", "world")


def test_a_mixture_in_a_file_is_taken_apart(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("mixture:\n- {light: {exposure: {stops: [-1, 1]}}}\n- {}\n- {light: {exposure: {stops: [2, 3]}}}\n")
    world = load_world(str(path))
    made = trials(["ring:4%"], world=world, tries=Tries(), staged=False)
    own = [one.world for one in made if one.trained]
    assert [one.name for one in own] == ["digital", "mine (1 of 3)", "mine (3 of 3)"]
    assert [one.components for one in own[1:]] == [(world.components[0],), (world.components[2],)]


def test_tries_are_what_ran():
    how = {"threat": "ring:4%", "world": DIGITAL, "tries": Tries(steps=50, restarts=2)}
    assert Trial(**how).ran == {"restarts": 2, "steps": 50, "candidates": 0}
    assert Trial(**how, optimiser="random-search").ran == {"restarts": 2, "steps": 150, "candidates": 0}
    assert Trial(**how | {"threat": "shadow:0.43"}).ran == {"restarts": 2, "steps": 1, "candidates": 200}
    assert Trial(**how | {"threat": "patch:5%@worst"}).ran == {"restarts": 2, "steps": 50, "candidates": 48}
    assert Trial(**how, plain=True).ran is None


def test_a_check_takes_what_fits_and_draws_of_its_own(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, int]] = []

    def attempt(target: Classifier, scenes: Scenes, trial: Trial, *, seed: int) -> Outcome:
        asked.append((trial.threat, seed))
        right = torch.ones(1, len(scenes), dtype=torch.bool)
        return Outcome(right, right)

    monkeypatch.setattr(watch_module, "attempt", attempt)
    how = {"world": DIGITAL, "mask": None, "palette": None, "tries": Tries(), "seed": 7}
    checker(tiny(), load_scenes("staged:stop,yield"), ["linf:2/255", "patch:10%"], **how)(tiny().module)
    assert [threat for threat, _ in asked] == ["patch:10%"]
    assert asked[0][1] != 7, "the seed of the final judge"


def test_the_headline_claims_what_was_trained(done: tuple[Path, dict]):
    _, metrics = done
    rows = [one | {"trained": one["world"] == "drive-by" and not one["novel"][:-1]} for one in metrics["attacks"]]
    said = harden_headline(metrics | {"attacks": rows})
    assert "of the kind it was trained on (patch:10%@worst, drive-by)" in said
    said = harden_headline(metrics | {"attacks": [one | {"trained": False} for one in rows]})
    assert "none of which is of the kind it was trained on (patch:10%@worst, digital)" in said


def test_a_world_of_the_mixture_is_not_new():
    made = trials(["stickers:rp2"], world=load_world("digital+night"), tries=Tries(), staged=False)
    own = [(one.threat, one.world.name) for one in made if one.trained]
    assert own == [("stickers:rp2", "digital"), ("stickers:rp2", "night")]
    assert {one.novel for one in made if one.world.name == "drive-by" and one.threat == "stickers:rp2"} == {
        ("world",),
        ("plain", "world"),
    }
    assert {one.threat: one.novel for one in made if one.world.name == "digital"}["stickers:two-bars"] == ("mask",)


def test_staged_scenes_are_judged_without_balls():
    assert not [one for one in trials(["ring:4%"], world=DIGITAL, tries=Tries(), staged=True) if "linf" in one.threat]


def test_trained_sizes():
    assert trained_sizes(["patch:5%@worst", "patch:12.5%@worst", "patch:10%", "ring:4%"]) == (5.0, 12.5)


@pytest.fixture(scope="module")
def few(folder: Path) -> Scenes:
    return load_scenes(f"imagefolder:{folder / 'signs'}", limit=6)


TRY = Tries(steps=30, restarts=2, resolution_px=8)


@pytest.mark.parametrize("world", ["digital", "drive-by"])
def test_nothing_changes_a_blind_target(few: Scenes, world: str):
    target = blind_classifier(answer="stop", classes=NAMES)
    outcome = attempt(target, few, Trial("patch:10%@worst", load_world(world), replace(TRY, steps=2)), seed=0)
    assert len(outcome.clean) == (1 if world == "digital" else 4)
    assert torch.equal(outcome.clean, outcome.right)
    assert outcome.clean.float().mean() == pytest.approx(1 / 3)


def test_a_target_that_looks_at_the_mean_falls_to_a_large_patch_and_not_to_a_small_one(few: Scenes):
    target = mean_reader(few)
    robust = {
        size: attempt(target, few, Trial(f"patch:{size}%@worst", DIGITAL, TRY), seed=0).right.float().mean().item()
        for size in (1, 100)
    }
    assert robust[1] == 1
    assert robust[100] < 0.5


def test_a_plain_sticker_is_tried_in_every_colour(few: Scenes):
    target = mean_reader(few)
    large, small = (
        attempt(target, few, Trial(f"patch:{size}%@worst", DIGITAL, TRY, plain=True), seed=0) for size in (80, 1)
    )
    assert small.right.all()
    assert large.right.float().mean() < 0.9


def mean_reader(scenes: Scenes) -> Classifier:
    """Answers with the class whose mean colour is nearest."""
    shown = scenes.labels.unique().tolist()

    class Nearest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rows = [(scenes.labels == row).nonzero()[:, 0] for row in shown]
            images = floats(scenes.images)
            self.centres = torch.nn.Parameter(torch.stack([images[row].mean((0, 2, 3)) for row in rows]))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return -40 * (images.mean((2, 3))[:, None] - self.centres).square().sum(2)

    return Classifier.of(
        Nearest(), classes=tuple(scenes.classes[row] for row in shown), frame=Frame(16), name="nearest"
    )


def test_the_matrix_tries_harder_where_a_target_was_trained(few: Scenes, monkeypatch: pytest.MonkeyPatch):
    tried: list[tuple[str, int]] = []

    def attempt(target: Classifier, scenes: Scenes, trial: Trial, *, seed: int) -> Outcome:
        assert trial.palette == "bw", "the palette of the training"
        tried.append((trial.threat, trial.tries.restarts))
        right = torch.ones(1, len(scenes), dtype=torch.bool)
        return Outcome(right, right)

    monkeypatch.setattr(judge_module, "attempt", attempt)
    rows = matrix({"a": tiny()}, few, trained={"a": (8.0,)}, tries=Tries(), seed=0, palette="bw", sizes=(5, 8))
    assert tried == [("patch:5%@worst", 2), ("patch:8%@worst", 5)]
    assert [cell["trained"] for cell in rows[0]["cells"]] == [False, True]
    assert rows[0]["cells"][0]["robust"]["rate"] == 1


def test_rates_are_of_all_and_of_those_right_without():
    outcome = Outcome(torch.tensor([[True, True, True, False]]), torch.tensor([[True, False, False, False]]))
    told = rates(outcome, list("abcd"), seed=0)
    assert (told["robust"]["k"], told["robust"]["n"]) == (1, 4)
    assert (told["success"]["k"], told["success"]["n"]) == (2, 3)


def test_a_difference_is_after_less_before():
    before, after = torch.tensor([[False] * 9 + [True]]), torch.tensor([[True] * 9 + [False]])
    told = gain(before, after, [str(row) for row in range(10)], seed=0)
    assert told["difference"] == pytest.approx(0.8)
    assert told["ci95"][0] > 0


def test_clean_accuracy_is_of_each_world_once():
    right, wrong = (torch.full((1, 4), value) for value in (True, False))
    made = [Trial("ring:4%", world, Tries()) for world in (DIGITAL, load_world("night"))]
    pairs = [Pair(trial, Outcome(right, wrong), Outcome(right, right)) for trial in made]
    told = clean_rates(pairs, list("abcd"), seed=0)
    assert list(told) == ["digital", "night"]
    assert told["night"]["before"]["rate"] == 1


def test_held_out_signs_are_not_trained_on(few: Scenes, folder: Path):
    every = load_scenes(f"imagefolder:{folder / 'signs'}")
    trained, held = held_out_scenes(every)
    assert not set(trained.groups) & set(held.groups)
    assert len(trained) + len(held) == len(every)
    assert len(set(held.groups)) == -(-len(set(every.groups)) // 10)
    staged = load_scenes("staged:stop,yield")
    apart = held_out_scenes(staged)
    assert sum(len(one.backgrounds) for one in apart) == len(staged.backgrounds)
    with pytest.raises(UserError, match="one sign alone"):
        held_out_scenes(few.take(torch.tensor([0])))


def test_lines_of_a_run_that_was_killed_are_replaced(tmp_path: Path):
    journal = Journal(tmp_path, tensorboard=False)
    for number, loss in ((1, 0.5), (2, 0.4), (2, 0.3)):
        journal.epoch(Epoch(number, 3, loss, 0.1, 0.2, 1.0, 1.0))
    lines = [json.loads(line) for line in (tmp_path / HISTORY).read_text().splitlines()]
    assert [(line["epoch"], line["loss"]) for line in lines] == [(1, 0.5), (2, 0.3)]


def test_the_console_says_how_long_it_takes(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    clock: Iterator[float] = iter([0.0, 30.0, 31.0, 62.0])
    monkeypatch.setattr("physadv.console.time.monotonic", lambda: next(clock))
    console = Console()
    with console.steps("step") as after:
        for step in (1, 2, 3):
            after(step, 6, 0.5)
    console.hardening(Epoch(1, 2, 0.5, 0.25, 1.0, 3.0, 90.0, "collapsed"))
    said = capsys.readouterr().err
    assert said.count("step ") == 2
    assert "step 3/6: loss 0.500, 1 min 02 s left" in said
    assert "robust 25.0 %, clean 100.0 %, 1 min 30 s left; collapsed" in said
