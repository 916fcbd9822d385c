"""Hardening of detectors: who wears the artwork, what is to be found, the loss, resuming, the command."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from physadv.augment import Labelled
from physadv.config import HardenOptions
from physadv.console import Console
from physadv.detection_data import labelled
from physadv.errors import UserError
from physadv.harden import detect, loop
from physadv.harden.detect import Batch, Clean, Photographs, attackable, dressed, rows_of_turn, truths, wearing
from physadv.harden.detect_judge import CHECK, Trial, check_of, operated
from physadv.harden.loop import Checked, harden
from physadv.harden.recipe import RECIPES, Plan
from physadv.runs import harden_detector
from physadv.runs.harden import run_harden
from physadv.runs.harden_detector import OWN, completed, detector_plan, known_to, run_harden_detector
from physadv.scenes.base import Scenes
from physadv.scenes.street import Street, coco
from physadv.scenes.street_develop import develop_street
from physadv.targets import Detector, build
from physadv.targets.base import Frame
from physadv.targets.boxes import Seen
from physadv.targets.models import read_target, save_target
from physadv.transforms.world import DIGITAL, load_world

RED, BLUE = (230, 20, 30), (20, 40, 230)
CLASSES = ("crosswalk", "speedlimit")
SIZE = 96


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> list[Street]:
    """Photographs with 0 to 3 squares: red ones are speed limits, blue ones crosswalk signs; 2 in 3 show both."""
    folder, random = tmp_path_factory.mktemp("streets"), np.random.default_rng(3)
    content: dict = {"images": [], "annotations": []}
    content["categories"] = [{"id": row, "name": name} for row, name in enumerate(CLASSES)]
    for row, signs in enumerate(((0, 1), (1,), (0, 1, 1), (0, 0), (1, 0), ()) * 2):
        image = random.integers(90, 130, (150, 200, 1)).repeat(3, 2).astype(np.uint8)
        for place, label in enumerate(signs):
            side = int(random.integers(36, 56))
            left, top = 5 + 65 * place, int(random.integers(5, 90))
            image[top : top + side, left : left + side] = (BLUE, RED)[label]
            sign = {"image_id": row, "category_id": label, "bbox": [left, top, side, side]}
            content["annotations"].append(sign)
        Image.fromarray(image).save(folder / f"{row}.png")
        content["images"].append({"id": row, "file_name": f"{row}.png", "group": row // 2})
    (folder / "instances.json").write_text(json.dumps(content))
    return coco(folder / "instances.json")


@pytest.fixture(scope="module")
def others(streets: list[Street], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same places, photographed again: a little brighter."""
    folder, there = tmp_path_factory.mktemp("others"), streets[0].path.parent
    for path in there.glob("*.png"):
        Image.fromarray((np.asarray(Image.open(path)).astype(int) + 3).clip(0, 255).astype(np.uint8)).save(
            folder / path.name
        )
    (folder / "instances.json").write_text((there / "instances.json").read_text())
    return f"coco:{folder / 'instances.json'}"


@pytest.fixture(scope="module")
def scenes(streets: list[Street]) -> Scenes:
    return develop_street(streets, canvas_px=SIZE)


@pytest.fixture(scope="module")
def trained() -> dict[str, torch.Tensor]:
    return deepcopy(build("signs-det", classes=2, seed=0).state_dict())


@pytest.fixture
def target(trained: dict[str, torch.Tensor]) -> Detector:
    module = build("signs-det", classes=2, seed=0)
    module.load_state_dict(trained)
    return Detector.of(module.eval(), classes=CLASSES, frame=Frame(SIZE, whole=True, pad=114 / 255), name="mine")


PLAN = Plan(recipe=replace(RECIPES["universal"], steps=1), epochs=2, batch=4, shard=2, attacked=0.5, autocast=False)


def learner(target: Detector, scenes: Scenes, streets: Sequence[Street], **how) -> Photographs:
    given = {"classes": CLASSES, "threats": ("patch:21%", "patch:10%@random"), "world": load_world("drive-by")}
    clean = Clean.of([labelled(one, CLASSES, longest_px=120) for one in streets], [], classes=2, seed=0)
    return Photographs.of(target, scenes, clean, **given | {"plan": PLAN, "seed": 0, "resolution_px": 8} | how)


# --- who wears the artwork, and what is to be found


def test_signs_of_one_class_wear_it_in_some_photographs_all_in_others_none(scenes: Scenes) -> None:
    label, seen = scenes.classes.index("speedlimit"), set()
    for seed in range(20):
        worn = dressed(scenes, label, seed=seed)
        assert not bool((worn.worn & (worn.labels != label)).any()), "of that class alone"
        assert bool(worn.worn.any())
        mine = worn.of[worn.labels == label]
        for photograph in range(len(scenes)):
            there = int((mine == photograph).sum())
            seen.add((there, int(worn.worn[worn.of == photograph].sum())))
    assert seen >= {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}


def test_at_least_one_sign_wears_it(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "WORN", 0.0)
    assert int(dressed(scenes, 1, seed=0).worn.sum()) == int((scenes.labels == 1).sum())


def test_what_is_to_be_found_is_what_the_world_shows(
    target: Detector, scenes: Scenes, streets: list[Street], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Scenes, Seen]] = []
    truth_in = detect.truth_in

    def noted(target, scenes, views, *, world):
        asked.append((scenes, world.seen(scenes, views, frame=target.frame)))
        return truth_in(target, scenes, views, world=world)

    monkeypatch.setattr(detect, "truth_in", noted)
    made = learner(target, scenes, streets, plan=replace(PLAN, batch=8, shard=8))
    for number in range(4):
        batch, _ = made.shard(target.module, number)
        some, seen = asked[-1]
        assert len(batch) == len(batch.truth) == 8
        assert len(some) == 4, "the rest is clean"
        for row in range(4):
            boxes, labels = batch.truth[row]
            assert torch.equal(boxes, seen.box[seen.image == row])
            names = [some.classes[int(one)] for one in seen.label[seen.image == row]]
            assert [target.classes[int(one)] for one in labels] == names


def test_as_the_file_has_it_the_boxes_are_the_annotated_ones(
    target: Detector, scenes: Scenes, streets: list[Street]
) -> None:
    made = learner(target, scenes, streets, world=DIGITAL)
    rows = made.wearers[0].rows[rows_of_turn(len(made.wearers[0].rows), 0, 1, seed=detect.derive(0, 0))]
    batch, _ = made.shard(target.module, 0)
    expected = torch.tensor([sign.box for sign in streets[int(rows[0])].signs]) * SIZE / 200
    torch.testing.assert_close(batch.truth[0][0], expected, atol=0.05, rtol=0)


def test_the_artwork_is_where_it_is_worn(target: Detector, scenes: Scenes, streets: list[Street]) -> None:
    """The kept artworks are bright green: that shows on signs of the class alone."""
    still = replace(PLAN, shard=4, attacked=1.0, recipe=replace(PLAN.recipe, step_size=1e-9))
    made = learner(target, scenes, streets, world=DIGITAL, threats=("patch:21%",), plan=still)
    for number, name in enumerate(CLASSES):
        ((_, found),) = made.shard(target.module, number)[1]
        green = torch.zeros_like(found.pixels).expand(detect.SLOTS, -1, -1, -1).clone()
        green[:, 1] = 255
        every = {"slots": torch.arange(detect.SLOTS), "centres_mm": found.centres_mm.expand(detect.SLOTS, 2)}
        made.keep([(number, replace(found, pixels=green, **every))])
        batch, _ = made.shard(target.module, number)
        worn = []
        for image, (boxes, labels) in zip(batch.images, batch.truth, strict=True):
            x, y = ((boxes[:, axis] + boxes[:, axis + 2]).div(2).long() for axis in (0, 1))
            worn += [CLASSES[int(one)] for one in labels[image[:, y, x].argmax(0) == 1]]
        assert len(worn) >= 2
        assert {*worn} == {name}


def test_signs_that_the_detector_has_no_class_for_are_not_to_be_found() -> None:
    box = torch.arange(12.0).reshape(3, 4)
    seen = Seen(torch.tensor([0, 1, 1]), torch.tensor([-1, 1, 0]), box, torch.ones(3, dtype=torch.bool))
    first, second, third = truths(seen, 3)
    assert first[0].shape == third[0].shape == (0, 4)
    assert torch.equal(second[0], box[1:])
    assert second[1].tolist() == [1, 0]


def test_every_photograph_comes_once_before_any_comes_twice() -> None:
    rows = torch.cat([rows_of_turn(5, 3 * turn, 3, seed=0) for turn in range(10)])
    for start in range(0, 30, 5):
        assert sorted(rows[start : start + 5].tolist()) == [*range(5)]
    assert rows[:5].tolist() != rows[5:10].tolist()


def test_classes_and_threats_take_turns(target: Detector, scenes: Scenes, streets: list[Street]) -> None:
    made = learner(target, scenes, streets)
    assert [name for name in CLASSES if name in attackable(target, scenes)] == [*CLASSES]
    assert [made.shard(target.module, number)[1][0][0] for number in range(4)] == [0, 1, 0, 1]
    assert [len(one.threats) for one in made.wearers] == [2, 2]


@pytest.mark.parametrize("threat", ["linf:8/255", "patch:10%@worst"])
def test_what_is_made_for_one_photograph_is_refused(scenes: Scenes, threat: str) -> None:
    with pytest.raises(UserError, match=r"one print for all photographs|on whole photographs use a patch"):
        wearing(scenes, "crosswalk", threats=[threat], seed=0)


def test_a_class_that_is_not_there_is_refused(scenes: Scenes) -> None:
    with pytest.raises(UserError, match="no signs of class stop"):
        wearing(scenes, "stop", threats=["patch:21%"], seed=0)


def test_recipes_of_classifiers_are_refused(target: Detector, scenes: Scenes, streets: list[Street]) -> None:
    with pytest.raises(UserError, match="universal"):
        learner(target, scenes, streets, plan=replace(PLAN, recipe=RECIPES["pgd"]))


# --- the search and the loop


def test_the_search_leaves_the_network_as_it_was(target: Detector, scenes: Scenes, streets: list[Street]) -> None:
    made, before = learner(target, scenes, streets), deepcopy(target.module.state_dict())
    target.module.train()
    made.shard(target.module, 0)
    assert target.module.training
    assert all(one.requires_grad for one in target.module.parameters())
    assert all(torch.equal(one, before[name]) for name, one in target.module.state_dict().items())


def test_artworks_go_on_from_step_to_step(target: Detector, scenes: Scenes, streets: list[Street]) -> None:
    made = learner(target, scenes, streets, classes=("speedlimit",), threats=("patch:21%",))
    slots = [0] * detect.SLOTS
    for number in range(12):
        _, found = made.shard(target.module, number)
        ((_, kept),) = found
        slot = int(kept.slots)
        if slots[slot]:
            change = (kept.pixels[0].int() - made.memories[0].pixels[kept.raster][slot].int()).abs()
            assert int(change.max()) <= 255 * PLAN.recipe.step_size + 1, "one step from where it was"
        slots[slot] += 1
        made.keep(found)
    assert max(slots) > 1


def test_a_shard_depends_on_its_number_alone(target: Detector, scenes: Scenes, streets: list[Street]) -> None:
    one, other = (learner(target, scenes, streets) for _ in range(2))
    other.shard(target.module, 0)
    first, second = (made.shard(target.module, 3)[0] for made in (one, other))
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, one.shard(target.module, 5)[0].images)


def test_batches_are_joined_in_order(target: Detector, scenes: Scenes, streets: list[Street]) -> None:
    boxes = [(torch.full((row, 4), float(row)), torch.full((row,), row)) for row in range(4)]
    parts = [Batch(torch.full((2, 3, 4, 4), float(part)), tuple(boxes[2 * part : 2 * part + 2])) for part in range(2)]
    whole = learner(target, scenes, streets).together(parts)
    assert whole.images[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert [len(labels) for _, labels in whole.truth] == [0, 1, 2, 3]


def run(target: Detector, scenes: Scenes, streets: Sequence[Street], **how) -> loop.Hardened:
    plan = how.pop("plan", PLAN)
    made = learner(target, scenes, streets, plan=plan)
    given = {"told": {"plan": str(plan)}, "check": lambda module: Checked(0.5, 0.5)}
    return harden(target.module, made, **given | how)


def test_the_loss_falls(target: Detector, scenes: Scenes, streets: list[Street]) -> None:
    """On pictures that no step saw, the artworks those of the start."""
    made = learner(target, scenes, streets)
    batch = made.together([made.shard(target.module, number)[0] for number in (1000, 1001, 1002)])
    before = made.loss(target.module, batch).item()
    after = run(target, scenes, streets, plan=replace(PLAN, epochs=8, learning_rate=3e-3, ema=0.5)).module
    assert made.loss(after, batch).item() < 0.8 * before


class Killed(Exception):
    pass


def test_a_killed_hardening_goes_on_to_the_same_bits(
    trained: dict[str, torch.Tensor], target: Detector, scenes: Scenes, streets: list[Street], tmp_path: Path
) -> None:
    whole = run(target, scenes, streets)
    steps = len(whole.losses) // 2

    def dies(step: int, count: int, loss: float) -> None:
        if step == steps + 1:
            raise Killed

    target.module.load_state_dict(trained)
    with pytest.raises(Killed):
        run(target, scenes, streets, checkpoint=tmp_path / "checkpoint", after_step=dies)
    target.module.load_state_dict(trained)
    resumed = run(target, scenes, streets, checkpoint=tmp_path / "checkpoint")
    assert resumed.losses == whole.losses
    other = resumed.module.state_dict()
    assert all(torch.equal(one, other[name]) for name, one in whole.module.state_dict().items())


def test_the_check_counts_the_signs_that_are_found(
    target: Detector, scenes: Scenes, streets: list[Street], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(scenes, scenes, CLASSES, "patch:21%", DIGITAL, replace(CHECK, steps=1, batch=2), 0, 8)
    rates = {"crosswalk": [1, 0, 0, 0], "speedlimit": [1, 1, 1, 0]}
    monkeypatch.setattr(
        Trial, "found", lambda self, detector, name, views: torch.tensor([[1, 1, 1, 1], rates[name]]).bool()
    )
    checked = check_of(target, streets, trial)(target.module)
    assert checked.robust == pytest.approx(0.5)
    assert checked.clean == operated(target, streets)[1]


def test_a_trial_sees_every_sign_of_its_class(target: Detector, scenes: Scenes) -> None:
    trial = Trial(scenes, scenes, CLASSES, "patch:21%", DIGITAL, replace(CHECK, steps=1, batch=2), 0, 8)
    for name in CLASSES:
        found = trial.found(replace(target, threshold=0.01), name)
        assert found.shape == (2, int((scenes.labels == scenes.classes.index(name)).sum()))


# --- the command


def options(folder: Path, streets: list[Street], **given) -> HardenOptions:
    spec = f"coco:{streets[0].path.parent / 'instances.json'}"
    return HardenOptions(scenes=spec, staged="none", out=folder / "out", **given)


def test_the_command_hardens_judges_and_keeps_a_detector(
    target: Detector, streets: list[Street], others: str, tmp_path: Path
) -> None:
    save_target(tmp_path / "mine", replace(target, threshold=0.01), "signs-det", {})
    given = {"target": f"safetensors:{tmp_path / 'mine'}", "epochs": 1, "batch": 8, "resolution_px": 8}
    given |= {"threat": ["patch:21%"], "world": "digital", "judge_steps": 2, "classes": ["speedlimit"], "quick": True}
    spec = others
    with Console() as console:
        metrics = run_harden(options(tmp_path, streets, judge=spec, **given), command="harden", console=console)
    out = tmp_path / "out"
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert {one["class"] for one in metrics["attacks"]} == {"speedlimit"}
    assert metrics["training"]["steps"] == 1
    assert metrics["run"]["scenes"] == {"spec": spec, "n": 12, "groups": 6, "chose": False}
    hardened, _ = read_target(out, name="hardened")
    assert hardened.weights_hash == metrics["run"]["hardened"]["weights_hash"] != target.weights_hash
    assert hardened.threshold == metrics["run"]["hardened"]["threshold"]
    assert (hardened.classes, hardened.frame) == (CLASSES, target.frame)
    for page in ("card.md", "report.html"):
        assert metrics["headline"].split(":")[0] in (out / page).read_text()
    with Console() as console, pytest.raises(UserError, match="holds an earlier run"):
        run_harden(options(tmp_path, streets, **given), command="harden", console=console)


def test_a_detector_has_its_own_defaults(tmp_path: Path, streets: list[Street]) -> None:
    plan = detector_plan(completed(options(tmp_path, streets, epochs=3)))
    assert (plan.epochs, plan.batch, plan.shard, plan.recipe.name) == (3, OWN["batch"], 8, "universal")
    assert completed(options(tmp_path, streets, threat=["ring:10%"])).threats == ("ring:10%",)
    assert (plan.weight_decay, plan.ema) == (OWN["weight_decay"], OWN["ema"])
    plan = detector_plan(completed(options(tmp_path, streets, weight_decay=0.3, ema=0.5)))
    assert (plan.weight_decay, plan.ema) == (0.3, 0.5)


IDLE = {
    "unlabelled": "gtsrb:there",
    "from_scratch": True,
    "beta": 2.0,
    "smoothing": 0.1,
    "variant": "uat-ft",
    "unlabelled_weight": 0.2,
}


@pytest.mark.parametrize("given", [{name: value} for name, value in IDLE.items()])
def test_what_does_nothing_here_is_refused(tmp_path: Path, streets: list[Street], given: dict) -> None:
    with pytest.raises(UserError, match="does nothing in the hardening of a detector"):
        completed(options(tmp_path, streets, **given))


def test_photographs_of_the_training_do_not_judge(target: Detector, streets: list[Street], tmp_path: Path) -> None:
    spec = f"coco:{streets[0].path.parent / 'instances.json'}"
    with pytest.raises(UserError, match="12 of the 12 photographs of --judge are also in --scenes"):
        run_harden_detector(options(tmp_path, streets, judge=spec), target, command="", console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_held_out_photographs_without_the_classes_are_refused(
    target: Detector, streets: list[Street], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = [one for one in streets if not any(sign.label == "crosswalk" for sign in one.signs)]
    shown = [one for one in streets if one not in empty]
    monkeypatch.setattr(harden_detector, "hold_out", lambda *_, **__: (shown, empty))
    with pytest.raises(UserError, match=f"None of the {len(empty)} held-out photographs shows crosswalk"):
        run_harden_detector(
            options(tmp_path, streets, classes=["crosswalk"]), target, command="", console=Console(quiet=True)
        )
    assert not (tmp_path / "out").exists()


def test_the_check_after_an_epoch_draws_other_views_than_the_judge(
    target: Detector, streets: list[Street], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def noted(target: Detector, held: Sequence[Street], trial: Trial):
        raise Seen(trial.seed)

    monkeypatch.setattr(harden_detector, "check_of", noted)
    with pytest.raises(Seen) as raised:
        run_harden_detector(
            options(tmp_path, streets, batch=8, seed=5), target, command="", console=Console(quiet=True)
        )
    assert raised.value.args[0] != 5


def test_boxes_of_unknown_classes_are_left_out(target: Detector, streets: list[Street]) -> None:
    some = replace(target, classes=("crosswalk", "stop"))
    assert {sign.label for one in streets for sign in known_to(some, one).signs} == {"crosswalk"}


def test_the_photographs_are_labelled_as_the_detector_names_them(streets: list[Street]) -> None:
    one: Labelled = labelled(streets[0], CLASSES, longest_px=120)
    assert one.labels.tolist() == [0, 1]
