"""How often it works: rates by hand, controls of the same shape, intervals that know the tracks, no luck."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from physadv.attacks import Settings, attack
from physadv.errors import UserError
from physadv.evaluation import Verdict, accuracy, evaluate, poses
from physadv.heldout import HeldOut, view_ids
from physadv.objectives import Margin, parse_goal
from physadv.question import truth_of
from physadv.scenes import Scenes, load_scenes
from physadv.stats import wilson
from physadv.targets import Classifier, Frame
from physadv.targets.fake import blind_classifier, fake_classifier
from physadv.threats import Artwork, load_artwork, load_threat
from physadv.transforms.stages import Stages
from physadv.transforms.view import Pinhole
from physadv.transforms.world import DIGITAL, World, load_world, world_names

CLASSES = ("yield", "stop", "other")
FRAME = Frame(16, 0.1)


class Scripted(nn.Module):
    """Answers that were written down beforehand, one tensor of logits per call, whatever the pictures show."""

    def __init__(self, answers: Sequence[Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.answers = list(answers)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.answers.pop(0) + self.weight


class Listening(nn.Module):
    """Keeps what it is shown and always says stop."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 1.0, 0.0]))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.weight.expand(len(images), -1)


def classifier(module: nn.Module) -> Classifier:
    return Classifier.of(module, classes=CLASSES, frame=FRAME, name="listed")


def says(*rows: int) -> Tensor:
    """Logits that name these classes."""
    return torch.nn.functional.one_hot(torch.tensor(rows), 3).float()


@cache
def signs(spec: str = "staged:stop") -> Scenes:
    return load_scenes(spec)


def sticker(scenes: Scenes, *, threat: str = "stickers:two-bars", seed: int = 0) -> Artwork:
    resolved = load_threat(threat, scenes, seed=0, resolution_px=12)
    return resolved.artwork(resolved.init(scenes, generator=torch.Generator().manual_seed(seed))).quantised()


def judge(target: Classifier, scenes: Scenes, artwork: Artwork | None, **options):
    options = {"world": DIGITAL, "goal": "untargeted", "views": 4, "seed": 0, "worlds": ["night"]} | options
    return evaluate(target, scenes, artwork, **options)


@pytest.fixture
def tracks(tmp_path: Path) -> Scenes:
    """Twelve photographs of three physical signs, as photographed scenes of stop."""
    folder = tmp_path / "stop"
    folder.mkdir()
    for number in range(12):
        pixels = np.full((40, 40, 3), (30, 90, 30), np.uint8)
        pixels[8:32, 8:32] = (150 + 8 * number, 20, 30)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    scenes = load_scenes(f"imagefolder:{tmp_path}")
    return replace(scenes, groups=tuple(f"track-{number // 4}" for number in range(12)))


# --- rates by hand

CLEAN, ARTWORK, GREY, RANDOM = (1, 1, 1, 0), (0, 1, 2, 2), (1, 1, 1, 1), (1, 0, 1, 1)
STILL = (0,)


def scripted(*elsewhere: tuple[int, ...]) -> Classifier:
    answers = (CLEAN, ARTWORK, GREY, GREY, GREY, RANDOM, *elsewhere, STILL)
    return classifier(Scripted([says(*rows) for rows in answers]))


def test_rates_of_answers_written_by_hand():
    """Truth is 1. Three views are right without the artwork; it takes two of them, and of all four views three."""
    target = scripted((1, 1, 1, 1), (0, 1, 1, 1), (1, 1, 0, 0), (0, 0, 0, 0))
    metrics = judge(target, signs(), sticker(signs())).metrics
    assert metrics["accuracy"] == wilson(3, 4).to_json()
    assert metrics["clean"] == wilson(1, 4).to_json()
    assert metrics["attacked"] == wilson(2, 3).to_json() | {"unconditional": wilson(3, 4).to_json()}
    assert metrics["controls"]["grey"] == wilson(0, 3).to_json() | {"unconditional": wilson(0, 4).to_json()}
    assert metrics["controls"]["random"] == wilson(1, 3).to_json() | {"unconditional": wilson(1, 4).to_json()}
    assert metrics["worlds"] == {"night": wilson(1, 4).to_json() | {"unconditional": wilson(1, 4).to_json()}}
    assert metrics["promise"] == wilson(2, 2).to_json() | {"unconditional": wilson(4, 4).to_json()}
    assert metrics["worst_world"] == {"world": "night"} | metrics["worlds"]["night"]
    risks = {"clean": wilson(1, 1), "views": wilson(1, 4), "robust": wilson(4, 4)}
    assert metrics["risk"] == {name: risk.to_json() for name, risk in risks.items()}


def test_targeted_success_is_the_wanted_class_and_no_other():
    """Two views say class 2 with the artwork; one of them was right before."""
    target = scripted((1, 1, 1, 1), (2, 2, 0, 0), (1, 1, 1, 1), (0, 0, 0, 0))
    metrics = judge(target, signs(), sticker(signs()), goal="class:other").metrics
    assert (metrics["clean"]["k"], metrics["clean"]["n"]) == (0, 4)
    assert (metrics["attacked"]["k"], metrics["attacked"]["n"]) == (1, 3)
    assert metrics["attacked"]["unconditional"]["k"] == 2
    assert metrics["worlds"]["night"]["k"] == 2
    assert metrics["promise"]["k"] == 0


def test_the_worst_world_is_the_one_with_least_success_among_those_with_cases():
    right, fooled, lost = (1, 1, 1, 1), (0, 0, 0, 0), (0, 0, 0, 0)
    elsewhere = [(right, fooled), (right, (0, 1, 1, 1)), (lost, fooled), (right, right)]
    target = scripted(*(rows for pair in elsewhere for rows in pair))
    metrics = judge(target, signs(), sticker(signs()), worlds=["drive-by", "night", "low-sun"]).metrics
    assert metrics["worlds"]["low-sun"]["rate"] is None, "nothing was read there without the artwork"
    assert metrics["worst_world"]["world"] == "night"
    assert metrics["worst_world"]["k"] == 1
    assert metrics["promise"]["k"] == 0, "the promise is no named world"


def test_every_named_world_and_the_promise_are_judged():
    metrics = judge(fake_classifier(classes=CLASSES, size_px=16), signs(), sticker(signs()), worlds=None).metrics
    assert list(metrics["worlds"]) == world_names()
    assert "promise" not in metrics["worlds"]
    assert {"rate", "k", "n", "ci95", "unconditional"} == set(metrics["promise"])
    keys = {"accuracy", "clean", "attacked", "controls", "promise", "worlds", "worst_world", "cells", "world", "risk"}
    assert set(metrics) == keys
    assert metrics["world"] == {"name": "digital", "hash": DIGITAL.hash}


def test_without_artwork_only_the_clean_target_is_judged():
    metrics = judge(fake_classifier(classes=CLASSES), signs(), None).metrics
    assert set(metrics) == {"accuracy", "clean", "world", "risk"}
    assert metrics["accuracy"]["n"] == 4


def test_a_target_in_training_mode_comes_back_so():
    target = fake_classifier(classes=CLASSES)
    target.module.train()
    judge(target, signs(), sticker(signs()))
    assert target.module.training
    assert all(parameter.requires_grad for parameter in target.module.parameters())


def test_the_world_itself_is_not_judged_twice():
    """Named among the worlds, it has the figures it had."""
    metrics = judge(scripted((1, 1, 1, 1), (1, 1, 1, 1)), signs(), sticker(signs()), worlds=["digital"]).metrics
    assert metrics["worlds"]["digital"] == metrics["attacked"]


def test_scenes_of_the_wanted_class_are_refused():
    with pytest.raises(UserError, match="stop"):
        judge(fake_classifier(classes=CLASSES), signs(), sticker(signs()), goal="class:stop")


# --- nothing by accident


@pytest.mark.parametrize("answer", ["stop", "other"])
def test_a_target_that_ignores_its_input_is_never_broken(answer: str):
    """Right always: 0 of n, as its controls. Wrong always: no cases, and no rate to boast of."""
    target = blind_classifier(answer=answer, classes=CLASSES, size_px=16)
    threat = load_threat("stickers:two-bars", signs(), seed=0, resolution_px=12)
    quick = Settings(steps=4, batch=2, views=1, held_out=8, check_every=2)
    found = attack(target, signs(), threat, world=load_world("drive-by"), settings=quick, seed=0)
    metrics = judge(target, signs(), found.artwork, world=load_world("drive-by"), views=20).metrics
    for rate in (metrics["attacked"], metrics["promise"], *metrics["controls"].values(), *metrics["worlds"].values()):
        if answer == "stop":
            assert (rate["rate"], rate["k"], rate["n"]) == (0.0, 0, 20)
            assert rate["ci95"][1] < 0.2
        else:
            assert (rate["rate"], rate["k"], rate["n"], rate["ci95"]) == (None, 0, 0, None)
            assert rate["unconditional"]["rate"] == 1.0, "the views that were wrong anyway stand beside, not here"
    assert ("worst_world" in metrics) == (answer == "stop")


# --- controls


def test_controls_have_the_shape_and_place_of_the_artwork():
    module = Listening()
    scenes = signs()
    art = replace(sticker(scenes), rgb=torch.ones_like(sticker(scenes).rgb))
    judge(classifier(module), scenes, art, world=load_world("drive-by").without("camera"), views=6)
    clean, worn, grey, white, black, random = module.seen[:6]
    touched = [(one - clean).abs().amax(1) > 2 / 255 for one in (worn, grey, white, black, random)]
    union = torch.stack(touched).any(0)
    assert 0.05 < union.float().mean() < 0.5
    for one in touched:
        assert (union & ~one).float().mean() < 0.05, "each covers what the others cover"
    assert not torch.equal(grey, random)


def test_plain_controls_are_plain_and_random_is_not():
    """Without physics, the controls' own colours arrive; blocks of random colours, other ones in another view."""
    module = Listening()
    poster = sticker(signs(), threat="patch:60%")
    judge(classifier(module), signs(), poster)
    _, _, grey, white, black, random = module.seen[:6]
    middle = (slice(None), slice(None), slice(7, 9), slice(7, 9))
    assert torch.allclose(grey[middle], torch.full_like(grey[middle], 0.5), atol=0.01)
    assert white[middle].min() > 0.98
    assert black[middle].max() < 0.02
    assert random[middle].std() > 0.05
    assert not torch.allclose(random[0][middle[1:]], random[1][middle[1:]], atol=0.05)


def test_controls_are_seen_in_the_same_light_as_the_artwork():
    """The same draws for all: an artwork of grey is the grey control."""
    module = Listening()
    art = sticker(signs())
    judge(classifier(module), signs(), replace(art, rgb=torch.full_like(art.rgb, 0.5)), world=load_world("drive-by"))
    assert torch.equal(module.seen[1], module.seen[2])


@pytest.mark.parametrize("threat", ["patch:100mm@random", "patch:100mm"])
def test_a_roaming_patch_and_its_controls_lie_elsewhere_in_every_view(threat: str):
    module, scenes = Listening(), signs()
    placed = load_threat(threat, scenes, seed=0, resolution_px=4)
    white = placed.artwork(torch.ones(1, 3, 4, 4))
    facing = World("facing", (Stages(view=(Pinhole(distance_m=(3.0, 3.0)),)),))
    judge(classifier(module), scenes, white, world=facing, views=8, threat=placed)
    clean, *worn = module.seen[:4]
    columns = torch.arange(16.0)
    at = []
    for images in worn:
        moved = (images - clean).abs().sum(1)
        total = moved.sum((1, 2))
        at.append(torch.stack([moved.sum(1) @ columns / total, moved.sum(2) @ columns / total], 1))
    spread_px = at[0].std(0).min()
    assert spread_px > 1 if "random" in threat else spread_px < 0.1
    assert (at[0] - at[1]).abs().max() < 1, "the grey patch lies where the white one lies"


# --- intervals and cells


def test_staged_views_are_independent_and_photographs_of_a_sign_are_not(tracks: Scenes):
    target = fake_classifier(classes=CLASSES, size_px=16)
    staged = judge(target, signs(), sticker(signs()), world=load_world("drive-by"), views=40).metrics
    assert staged["accuracy"] == wilson(staged["accuracy"]["k"], 40).to_json()
    module = Scripted([says(*rows) for rows in ([1] * 12, [0] * 8 + [1] * 4, *[[1] * 12] * 9)])
    metrics = judge(classifier(module), tracks, sticker(tracks), views=1).metrics
    independent = wilson(8, 12).to_json()["ci95"]
    low, high = metrics["attacked"]["ci95"]
    assert metrics["attacked"]["k"] == 8
    assert low < independent[0] - 0.1
    assert high > independent[1] + 0.05


@pytest.mark.parametrize("kind", ["staged", "photographed"])
def test_cells_add_up(kind: str, tracks: Scenes):
    scenes = signs() if kind == "staged" else tracks
    right, fooled = [1] * 50 + [0] * 10, [0, 1, 2] * 20
    target = classifier(Scripted([says(*rows) for rows in (*(right, fooled) * 5, [1] * len(scenes))]))
    metrics = judge(target, scenes, sticker(scenes), world=load_world("drive-by"), views=60 // len(scenes)).metrics
    assert sum(cell["k"] for cell in metrics["cells"]) == metrics["attacked"]["k"] == 33
    assert sum(cell["n"] for cell in metrics["cells"]) == metrics["attacked"]["n"] == 50
    where = "distance_m" if kind == "staged" else "sign_px"
    assert all(set(cell) == {where, "yaw_deg", "rate", "k", "n", "ci95"} for cell in metrics["cells"])
    if kind == "staged":
        assert len({tuple(cell["distance_m"]) for cell in metrics["cells"]}) >= 4
        assert len({tuple(cell["yaw_deg"]) for cell in metrics["cells"]}) >= 4
    else:
        assert {tuple(cell["sign_px"]) for cell in metrics["cells"]} == {(32.0, 48.0)}, "40 px in their photographs"


def test_poses_are_those_of_the_photographs():
    """Each view's distance is the distance it was photographed from, also in a mixture of worlds."""
    near_and_far = World("mixed", load_world("drive-by").components + load_world("parking-lot").components)
    views = HeldOut(fake_classifier(classes=CLASSES), signs("staged:stop,yield"), near_and_far, 6, seed=1)
    objective = Margin(parse_goal("untargeted", CLASSES))
    nothing = torch.zeros(len(views), len(CLASSES))
    far, _ = poses(Verdict(views, objective, nothing, {}))
    alone = [near_and_far.draw([view], seed=1).draws[0] for view in view_ids(views.scene, views.views)]
    pinholes = [next(t for t in draw.stages.view if type(t).__name__ == "Pinhole") for draw in alone]
    wanted = [draw.of(pinhole)["distance_m"].item() for draw, pinhole in zip(alone, pinholes, strict=True)]
    assert far.tolist() == pytest.approx(wanted)


# --- other scenes, other targets, from disk


def test_labels_are_matched_by_name_and_only_the_shown_ones_are_needed():
    scenes = signs("staged:stop,yield,priority-road").take(torch.tensor([1, 0, 1]))
    assert truth_of(scenes, ("yield", "stop", "other")).tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="does not know yield"):
        truth_of(scenes, ("stop", "other"))


def test_an_artwork_is_judged_on_another_target():
    """Transfer: the other target's frame, classes and answers count."""
    art = sticker(signs())
    other = Classifier.of(Listening(), classes=("other", "stop", "yield"), frame=Frame(24, 0.2), name="other")
    metrics = judge(other, signs(), art).metrics
    assert {tuple(images.shape[1:]) for images in other.module.seen} == {(3, 24, 24)}
    assert metrics["attacked"]["rate"] == 0.0, "it always says stop"
    wrong = Classifier.of(Listening(), classes=("stop", "other", "yield"), frame=FRAME, name="wrong")
    assert judge(wrong, signs(), art).metrics["attacked"]["rate"] is None


def test_saved_and_loaded_gives_the_same_figures(tmp_path: Path):
    target = fake_classifier(classes=CLASSES, size_px=16)
    art = sticker(signs())
    art.save(tmp_path)
    world = load_world("drive-by")
    one, other = (judge(target, signs(), a, world=world, views=20).metrics for a in (art, load_artwork(tmp_path)))
    assert one == other
    assert judge(target, signs(), art, world=world, views=20, seed=1).metrics != one


def test_each_scene_wears_its_own_artwork(tracks: Scenes):
    art = sticker(tracks)
    colours = torch.linspace(0, 1, len(tracks))[:, None, None, None]
    module = Listening()
    worn = replace(art, rgb=colours.expand(-1, 3, *art.rgb.shape[2:]).contiguous(), printed=False)
    judge(classifier(module), tracks, worn, views=2)
    artwork = torch.cat(module.seen)[24:48]
    levels = artwork[:, :, 4, 8].mean(1)
    assert torch.allclose(levels[:12], colours.flatten(), atol=0.02)
    assert torch.allclose(levels[12:], colours.flatten(), atol=0.02)


def test_accuracy_counts_clean_views(tracks: Scenes):
    assert accuracy(blind_classifier(answer="stop", classes=CLASSES), signs(), DIGITAL, seed=0).to_json()["k"] == 20
    assert accuracy(blind_classifier(answer="yield", classes=CLASSES), tracks, DIGITAL, seed=0).to_json()["n"] == 12
    assert accuracy(blind_classifier(answer="yield", classes=CLASSES), tracks, DIGITAL, seed=0).k == 0


def test_nan_from_the_target_is_refused():
    module = Scripted([torch.full((4, 3), torch.nan)] * 10 + [torch.full((1, 3), torch.nan)])
    with pytest.raises(UserError, match="NaN"):
        judge(classifier(module), signs(), sticker(signs()))
