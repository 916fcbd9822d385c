"""Hardening: what each step searches, remembers and minimises, and what the loop makes of it."""

import math
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from physadv import ranks
from physadv.attacks import Settings, attack, attack_each
from physadv.errors import UserError
from physadv.harden import loop
from physadv.harden.awp import perturbed_weights
from physadv.harden.classify import Signs, labelled_source
from physadv.harden.inner import Divergence, Inner
from physadv.harden.loop import Checked, harden
from physadv.harden.losses import Labelled, loss, together
from physadv.harden.memory import PER_CLASS, SHARED, Kept, Memory, kept
from physadv.harden.recipe import RECIPES, Plan, Recipe, parse_recipe
from physadv.heldout import HeldOut
from physadv.learning import Learning, cosine
from physadv.location import worst
from physadv.objectives import Margin, parse_goal
from physadv.scenes import Scenes, load_scenes
from physadv.targets import Classifier, Frame
from physadv.targets.fake import fake_classifier
from physadv.threats import load_threat
from physadv.threats.sought import SoughtPatch, chosen
from physadv.transforms.world import DIGITAL, load_world

COLOURS = {"stop": (190, 20, 30), "yield": (30, 40, 190), "priority-road": (200, 180, 20)}
CLASSES = tuple(COLOURS)


class Killed(Exception):
    pass


class Net(nn.Module):
    """Two convolutions; batch norm and dropout, so that a forgotten mode shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        seen = self.norm(self.first(images - 0.5)).relu()
        return self.head(self.drop(self.second(seen).relu().amax((2, 3))))


class Flat(nn.Module):
    """`view` instead of `flatten`, and a layer that nothing asks: as users' networks are."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.spare = nn.Conv2d(3, 4, 5, stride=4), nn.Linear(3, 3)
        self.head = nn.Linear(4 * 4 * 4, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images - 0.5)
        return self.head(features.view(len(images), -1))


class Spot(nn.Module):
    """Says the colour that is closest to what it sees in one spot: a patch elsewhere does little."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Parameter(torch.tensor([*COLOURS.values()]) / 255)

    def forward(self, images: Tensor) -> Tensor:
        y, x = ((torch.arange(side) + 0.5) / side for side in images.shape[2:])
        window = torch.exp(-((y[:, None] - 0.6) ** 2 + (x - 0.4) ** 2) / 0.05)
        seen = (images * window / window.sum()).sum((2, 3))
        return -20 * ((seen[:, None] - self.colours) ** 2).sum(2)


def network(seed: int = 0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net()


def classifier(module: nn.Module | None = None) -> Classifier:
    return Classifier.of(module or network(), classes=CLASSES, frame=Frame(20, 0.1), name="net")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Twelve noisy pictures of three colours."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(4):
            pixels = random.normal(0, 25, (24, 24, 3)) + np.array(colour) * random.uniform(0.6, 1.2)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return load_scenes(f"imagefolder:{folder}")


@cache
def faces() -> Scenes:
    return load_scenes(f"staged:{','.join(CLASSES)}")


def margin(target: Classifier) -> Margin:
    return Margin(parse_goal("untargeted", target.classes))


# --- the loss, by hand


def batch(count: int, **changed: Any) -> Labelled:
    plain = {"weight": torch.ones(count), "drawn": torch.zeros(count), "twin": torch.full((count,), -1)}
    labels = changed.pop("labels", torch.zeros(count, dtype=torch.long))
    return Labelled(torch.zeros(count, 3, 2, 2), labels, **(plain | changed))


def test_cross_entropy_by_weight() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    entropy = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1)), math.log(2)]
    some = batch(3, weight=torch.tensor([1.0, 0.5, 0.0]))
    assert loss(logits, some, beta=9.0, smoothing=0.0).item() == pytest.approx((entropy[0] + entropy[1] / 2) / 1.5)


def test_smoothed_labels() -> None:
    logits = torch.tensor([[2.0, 0.0]])
    expected = math.log(1 + math.exp(-2)) + 0.05 * 2  # half of a tenth goes to the other class
    assert loss(logits, batch(1), beta=1.0, smoothing=0.1).item() == pytest.approx(expected)


def test_trades_is_its_formula() -> None:
    """CE(clean) + beta * KL(clean || attacked): Zhang et al. 2019, eq. 5. Rows 0, 1 attacked; 2, 3 their twins."""
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    twin = torch.tensor([2, 3, -1, -1])
    some = batch(4, weight=torch.tensor([0.0, 0, 1, 1]), drawn=torch.tensor([1.0, 0.5, 0, 0]), twin=twin)
    shares = logits.double().softmax(1).numpy()
    divergence = [float((shares[b] * np.log(shares[b] / shares[a])).sum()) for a, b in ((0, 2), (1, 3))]
    entropy = -(math.log(shares[2][0]) + math.log(shares[3][0])) / 2
    expected = entropy + 6 * (divergence[0] + 0.5 * divergence[1]) / 1.5
    assert loss(logits, some, beta=6.0, smoothing=0.0).item() == pytest.approx(expected, rel=1e-5)


def test_without_labels_only_the_divergence_counts() -> None:
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    some = batch(2, weight=torch.zeros(2), drawn=torch.tensor([1.0, 0]), twin=torch.tensor([1, -1]))
    total = loss(logits, some, beta=1.0, smoothing=0.0)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits[1]), torch.distributions.Categorical(logits=logits[0])
    )
    torch.testing.assert_close(total, expected)
    total.backward()
    assert (logits.grad != 0).all(), "the clean side learns, too"


def test_twins_stay_twins_in_a_larger_batch() -> None:
    one = batch(2, twin=torch.tensor([1, -1]), labels=torch.tensor([4, 4]))
    both = together([one, one, batch(1)])
    assert both.twin.tolist() == [1, -1, 3, -1, -1]
    assert both.labels.tolist() == [4, 4, 4, 4, 0]
    assert len(both) == 5


# --- the memory


def found(slots: list[int], value: int, raster: str = "patch 2x2") -> Kept:
    count = len(slots)
    pixels = torch.full((count, 3, 2, 2), value, dtype=torch.uint8)
    return Kept(raster, torch.tensor(slots), pixels, torch.full((count, 2), float(value)))


def test_slots_per_image_per_class_and_for_all(photographs: Scenes) -> None:
    rows, labels = torch.tensor([7, 3, 9, 7]), torch.tensor([2, 0, 1, 2])
    patch, ball = load_threat("patch:10%", photographs, seed=0), load_threat("linf:8/255", photographs, seed=0)
    assert Memory("image", 10, 3).slots(patch, rows, labels, seed=0).tolist() == [7, 3, 9, 7]
    of_class = Memory("class", 10, 3).slots(patch, rows, labels, seed=0)
    assert (of_class // PER_CLASS).tolist() == [2, 0, 1, 2]
    assert Memory("class", 10, 3).slots(ball, rows, labels, seed=0).tolist() == [7, 3, 9, 7], "of one image alone"
    shared = [Memory("shared", 10, 3).slots(patch, rows, labels, seed=seed) for seed in range(200)]
    assert {one.numel() for one in shared} == {1}
    assert {int(one) for one in shared} == set(range(SHARED)), "every slot has its turn"


def test_the_last_search_on_a_slot_is_kept() -> None:
    memory = Memory("image", 5, 3)
    memory.keep([found([1, 2], 10), found([2, 3], 20)])
    assert memory.pixels["patch 2x2"][:, 0, 0, 0].tolist() == [0, 10, 20, 20, 0]
    assert memory.filled["patch 2x2"].tolist() == [False, True, True, True, False]


def test_a_random_start_keeps_nothing() -> None:
    memory = Memory("random", 5, 3)
    memory.keep([found([1], 10)])
    assert memory.tensors() == {}


def test_a_memory_comes_back_from_its_tensors() -> None:
    memory, other = Memory("image", 5, 3), Memory("image", 5, 3)
    memory.keep([found([1, 2], 10), found([0], 7, "ring 2x2")])
    other.restore(memory.tensors())
    assert other.tensors().keys() == memory.tensors().keys()
    assert all(torch.equal(value, memory.tensors()[name]) for name, value in other.tensors().items())


def test_an_artwork_is_recalled_where_there_is_one(photographs: Scenes) -> None:
    threat, memory = load_threat("patch:10%", photographs, seed=0, resolution_px=4), Memory("image", 12, 3)
    rows = torch.tensor([2, 5, 8])
    scenes, mine = photographs.take(rows), threat.take(rows)
    fresh = memory.recall(mine, scenes, rows, seed=1)
    assert torch.equal(fresh, memory.recall(mine, scenes, rows, seed=1))
    theta = torch.rand(2, 3, *threat.size_px, generator=torch.Generator().manual_seed(0))
    some = mine.take(torch.tensor([0, 2]))
    memory.keep([kept(some, some.artwork(theta).quantised(), rows[[0, 2]])])
    again = memory.recall(mine, scenes, rows, seed=1)
    torch.testing.assert_close(again[[0, 2]], theta, atol=0.5 / 255 + 1e-6, rtol=0)
    assert torch.equal(again[1], fresh[1]), "where nothing was kept, a random start"


def test_patches_of_any_size_share_their_slots_and_balls_do_not(photographs: Scenes) -> None:
    small, large = (load_threat(f"patch:{size}%", photographs, seed=0, resolution_px=4) for size in (5, 20))
    ball = load_threat("linf:8/255", photographs, seed=0)
    memory, rows, theta = Memory("image", 12, 3), torch.arange(12), torch.full((12, 3, 4, 4), 0.2)
    memory.keep([kept(small, small.artwork(theta).quantised(), rows)])
    torch.testing.assert_close(memory.recall(large, photographs, rows, seed=0), theta, atol=1e-6, rtol=0)
    started = memory.recall(ball, photographs, rows, seed=0)
    assert not (started == 0.2).all()


def test_a_place_is_remembered_with_the_artwork(photographs: Scenes) -> None:
    threat = load_threat("patch:10%@worst", photographs, seed=0, resolution_px=4)
    assert isinstance(threat, SoughtPatch)
    first, other = (threat.candidates(1, seed=seed)[0] for seed in (1, 2))
    memory, theta = Memory("image", 12, 3), torch.full((12, 3, 4, 4), 0.2)
    assert memory.place(other, torch.arange(12)) is other, "nothing is known yet"
    some = torch.arange(0, 12, 2)
    worn = first.take(some)
    memory.keep([kept(worn, worn.artwork(theta[some]).quantised(), some)])
    back = memory.place(other, torch.arange(12))
    torch.testing.assert_close(back.place_mm[::2], first.place_mm[::2])
    torch.testing.assert_close(back.place_mm[1::2], other.place_mm[1::2])


# --- places


def test_candidates_are_spread_over_the_face(photographs: Scenes) -> None:
    threat = load_threat("patch:10%@worst", photographs, seed=0)
    assert isinstance(threat, SoughtPatch)
    places = torch.stack([one.place_mm for one in threat.candidates(40, seed=3)])
    sizes_mm = places[0, :, 2:] - places[0, :, :2]
    faces_mm = photographs.faces.size_mm[photographs.face]
    assert (places[..., :2] >= -1e-3).all()
    assert (places[..., 2:] <= faces_mm + 1e-3).all()
    torch.testing.assert_close(sizes_mm.prod(1), 0.1 * photographs.faces.area_mm2[photographs.face], rtol=1e-4, atol=0)
    tops = places[:, 0, 1] / (faces_mm[0, 1] - sizes_mm[0, 1])
    assert tops.max() - tops.min() > 0.65, "from one side of the octagon to the other"
    assert (places[0] != places[1]).any(1).all()


def test_a_sought_patch_is_taken_with_its_scenes(photographs: Scenes) -> None:
    threat, rows = load_threat("patch:10%@worst", photographs, seed=0), torch.tensor([9, 0, 5])
    assert isinstance(threat, SoughtPatch)
    taken = threat.take(rows)
    assert torch.equal(taken.face, photographs.face[rows])
    assert torch.equal(taken.place_mm, threat.place_mm[rows])
    with pytest.raises(UserError, match="on each scene"):
        threat.init(photographs, generator=torch.Generator())


def test_the_worst_place_is_that_of_brute_force(photographs: Scenes) -> None:
    target = classifier(Spot())
    objective = Margin(parse_goal("untargeted", CLASSES), kappa=1e3)
    threat = load_threat("patch:10%@worst", photographs, seed=0, resolution_px=4)
    assert isinstance(threat, SoughtPatch)
    colours = [torch.full((1, 3, *threat.size_px), value) for value in (0.0, 0.5, 1.0)]
    candidates, world = threat.candidates(6, seed=5), load_world("drive-by")
    best = worst(target, photographs, candidates, colours, keep=3, world=world, objective=objective, views=2, seed=4)
    judged = HeldOut(target, photographs, world, 2, 4)
    found = np.zeros((6, 3, 12))
    for place, one in enumerate(candidates):
        for colour, rgb in enumerate(colours):
            (answers,) = judged.answers(one.artwork(rgb))
            found[place, colour] = objective.loss(answers, judged.truth).reshape(2, 12).mean(0)
    order = found.min(1).argsort(0)
    for rank in range(3):
        for row in range(12):
            assert torch.equal(best[rank].place_mm[row], candidates[order[rank, row]].place_mm[row])
    assert len(set(order[0].tolist())) > 1, "not the same on every scene"


def test_of_each_scene_the_chosen_candidate(photographs: Scenes) -> None:
    threat = load_threat("patch:10%@worst", photographs, seed=0)
    assert isinstance(threat, SoughtPatch)
    candidates, which = threat.candidates(3, seed=0), torch.arange(12) % 3
    mine = chosen(candidates, which)
    for row in range(12):
        assert torch.equal(mine.place_mm[row], candidates[row % 3].place_mm[row])


SEARCH: dict[str, Any] = {"steps": 4, "batch": 16, "views": 1, "held_out": 12, "check_every": 2, "step_size": 0.2}


def test_several_places_are_never_worse_than_the_best_one(photographs: Scenes) -> None:
    target = classifier(Spot())
    threat = load_threat("patch:5%@worst", photographs, seed=0, resolution_px=4)
    how: dict[str, Any] = {"world": DIGITAL, "seed": 3}
    one, three = (
        attack_each(target, photographs, threat, settings=Settings(**SEARCH, kappa=1e3, restarts=restarts), **how)
        for restarts in (1, 3)
    )
    assert (three.score >= one.score).all()
    assert (three.score > one.score).any(), "what noise finds worst is not always the worst"
    judged = HeldOut(target, photographs, DIGITAL, 1, 0)
    (answers,) = judged.answers(three.artwork)
    losses = Margin(parse_goal("untargeted", CLASSES), kappa=1e3).loss(answers, judged.truth)
    won = (answers.argmax(1) != judged.truth).float()
    torch.testing.assert_close(three.score, won - 1e-5 * losses, rtol=0, atol=1e-7)
    assert (three.artwork.place_mm != one.artwork.place_mm).any(1).tolist() == (three.score > one.score).tolist()


def test_scenes_that_are_won_get_no_further_search(photographs: Scenes) -> None:
    target = classifier()
    threat = load_threat("patch:40%@worst", photographs, seed=0, resolution_px=4)
    how: dict[str, Any] = {"world": DIGITAL, "seed": 3}
    early, late = (
        attack_each(target, photographs, threat, settings=Settings(**SEARCH, restarts=3, early_stop=stop), **how)
        for stop in (True, False)
    )
    assert early.resting.any()
    assert not late.resting.any()
    assert early.photographs < late.photographs
    assert torch.equal(early.resting, early.score > 0.5)


# --- the inner search


def test_the_divergence_is_the_negative_kl() -> None:
    reference, logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    goal = parse_goal("untargeted", ("a", "b"))
    told = Divergence(goal, reference).loss(logits, torch.tensor([0, 1]))
    p, q = (one.double().softmax(1).numpy() for one in (reference, logits))
    np.testing.assert_allclose(told, -(p * np.log(p / q)).sum(1), atol=1e-6)
    twice = Divergence(goal, reference).loss(logits.repeat(2, 1), torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(twice, told.repeat(2))
    assert Divergence(goal, reference).success(logits, torch.tensor([0, 1])).tolist() == [True, False]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", ["warm", "trades", "location", "class", "universal"])
def test_the_search_leaves_the_network_as_it_was(photographs: Scenes, recipe: str, training: bool) -> None:
    target = classifier()
    target.module.train(training)
    target.module.get_submodule("drop").eval()
    target.module.get_parameter("head.bias").requires_grad_(False)
    before = {name: value.clone() for name, value in target.module.state_dict().items()}
    spec = "patch:10%@worst" if recipe == "location" else "patch:10%"
    threat = load_threat(spec, photographs, seed=0, resolution_px=4)
    chosen_recipe = replace(RECIPES[recipe], steps=2)
    memory, rows = Memory(chosen_recipe.start, 12, 3), torch.arange(12)
    faces_of_one = photographs.take(torch.arange(4)), threat.take(torch.arange(4))
    labels = photographs.labels
    reference = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) if recipe == "trades" else None
    inner = Inner(target, DIGITAL, chosen_recipe)
    inner.maximise(*faces_of_one, memory, rows[:4], labels[:4], reference=reference, seed=0)
    assert target.module.training is training
    assert target.module.get_submodule("norm").training is training
    assert not target.module.get_submodule("drop").training
    assert [name for name, one in target.module.named_parameters() if not one.requires_grad] == ["head.bias"]
    assert all(one.grad is None for one in target.module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in target.module.state_dict().items())


def test_a_search_goes_on_where_the_last_one_ended(photographs: Scenes) -> None:
    """Three times one step with a memory loses less than three steps from a random start, and more than one."""
    target, world = classifier(), DIGITAL
    target.module.eval()
    threat, rows = load_threat("patch:20%", photographs, seed=0, resolution_px=4), torch.arange(12)
    memory = Memory("image", 12, 3)
    inner = Inner(target, world, replace(RECIPES["warm"], step_size=0.05))
    lost = []
    for turn in range(6):
        artwork, mine = inner.maximise(photographs, threat, memory, rows, photographs.labels, seed=turn)
        memory.keep([mine])
        (answers,) = HeldOut(target, photographs, world, 1, 0).answers(artwork)
        lost.append(margin(target).loss(answers, HeldOut(target, photographs, world, 1, 0).truth).mean().item())
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < lost[0] - 0.01


def test_the_search_of_trades_moves_away_from_the_clean_answer(photographs: Scenes) -> None:
    target = fake_classifier(classes=CLASSES, size_px=20)
    threat, rows = load_threat("patch:20%", photographs, seed=0, resolution_px=4), torch.arange(12)
    judged = HeldOut(target, photographs, DIGITAL, 1, 0)
    (clean,) = judged.answers(None)
    apart = []
    for steps in (1, 8):
        inner = Inner(target, DIGITAL, replace(RECIPES["trades"], steps=steps, step_size=0.1))
        artwork, _ = inner.maximise(
            photographs, threat, Memory("random", 12, 3), rows, photographs.labels, reference=clean, seed=0
        )
        (answers,) = judged.answers(artwork)
        apart.append(-Divergence(parse_goal("untargeted", CLASSES), clean).loss(answers, judged.truth))
    assert apart[1].mean() > 1.2 * apart[0].mean()


def test_recipes_are_named_and_a_slip_is_answered() -> None:
    assert parse_recipe("trades").loss == "trades"
    with pytest.raises(UserError, match="did you mean 'fast'"):
        parse_recipe("fats")
    with pytest.raises(UserError, match="multiple of 32"):
        Plan(batch=40)
    with pytest.raises(UserError, match="share of attacked"):
        Plan(attacked=0.0)


# --- shards


def learner(
    target: Classifier,
    scenes: Scenes,
    *threats: str,
    recipe: str | Recipe = "warm",
    world: str = "digital",
    seed: int = 0,
    **plan: Any,
) -> Signs:
    said = {"recipe": RECIPES[recipe] if isinstance(recipe, str) else recipe, "epochs": 3, "batch": 4, "shard": 4}
    said |= {"autocast": False, "learning_rate": 3e-3} | plan
    made = [load_threat(one, scenes, seed=0, resolution_px=4) for one in threats or ("patch:10%",)]
    source = labelled_source(target, scenes, made, share=said["shard"])
    return Signs.of(target, [source], world=load_world(world), plan=Plan(**said), seed=seed)


def test_every_image_comes_once_an_epoch_and_orders_differ(photographs: Scenes) -> None:
    mine = learner(classifier(), photographs)
    assert mine.steps == 3
    rows = [mine._rows(mine.sources[0], number, 0) for number in range(6)]
    first, second = torch.cat(rows[:3]), torch.cat(rows[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("recipe", ["pgd", "trades"])
def test_a_shard_depends_on_its_number_alone(photographs: Scenes, recipe: str) -> None:
    target = classifier(network().eval())
    one, other = (learner(target, photographs, recipe=recipe, world="drive-by") for _ in range(2))
    late, _ = one.shard(target.module, 5)
    for number in range(4):
        other.shard(target.module, number)
    again, _ = other.shard(target.module, 5)
    assert torch.equal(late.images, again.images)
    other_number, _ = one.shard(target.module, 4)
    assert not torch.equal(late.images, other_number.images)


def test_attacked_images_come_first_and_clean_ones_after(photographs: Scenes) -> None:
    target = fake_classifier(classes=CLASSES, size_px=20)
    mine = learner(target, photographs, attacked=0.75)
    made, ((_, remembered),) = mine.shard(target.module, 0)
    assert len(made) == 4
    assert len(remembered.slots) == 3
    rows = mine._rows(mine.sources[0], 0, 0)
    bare = torch.cat([*HeldOut(target, photographs.take(rows), DIGITAL, 1, 0).photographs(None)])
    changed = (made.images - bare).abs().amax((1, 2, 3)) > 0.05
    assert changed.tolist() == [True, True, True, False]
    assert made.labels.tolist() == mine.sources[0].labels[rows].tolist()


def test_trades_brings_the_clean_twin_of_every_attacked_image(photographs: Scenes) -> None:
    target = fake_classifier(classes=CLASSES, size_px=20)
    mine = learner(target, photographs, recipe="trades", attacked=0.75)
    made, _ = mine.shard(target.module, 0)
    assert made.twin.tolist() == [3, 4, 5, -1, -1, -1, -1]
    assert made.weight.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert made.drawn.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert made.labels[:3].tolist() == made.labels[3:6].tolist()
    rows = mine._rows(mine.sources[0], 0, 0)
    bare = torch.cat([*HeldOut(target, photographs.take(rows), DIGITAL, 1, 0).photographs(None)])
    torch.testing.assert_close(made.images[3:], bare, atol=1e-5, rtol=0)


def test_threats_of_a_mixture_take_turns(photographs: Scenes) -> None:
    target = fake_classifier(classes=CLASSES, size_px=20)
    mine = learner(target, photographs, "patch:10%", "linf:8/255")
    names = [kept_.raster.split()[0] for number in range(4) for _, kept_ in mine.shard(target.module, number)[1]]
    assert names == ["patch", "linf", "patch", "linf"]


# --- weights that are moved


def test_the_perturbation_of_weights_is_its_formula_and_goes_again() -> None:
    module = network()
    module(torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))).logsumexp(1).sum().backward()
    before = {name: one.detach().clone() for name, one in module.named_parameters()}
    moved: dict[str, Tensor] = {}

    def fails() -> None:
        with perturbed_weights(module, 0.01):
            moved.update((name, one.detach().clone()) for name, one in module.named_parameters())
            raise Killed

    with pytest.raises(Killed):
        fails()
    for name, one in module.named_parameters():
        weight = before[name]
        pushed = weight + 0.01 * weight.norm() * one.grad / one.grad.norm() if one.ndim > 1 else weight
        torch.testing.assert_close(moved[name], pushed)
    assert not torch.equal(moved["head.weight"], before["head.weight"])
    assert all(torch.equal(one, before[name]) for name, one in module.named_parameters())


# --- what learns


def test_the_schedule_rises_and_falls() -> None:
    rates = [cosine(step, 200, 1.0) for step in range(200)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 10
    assert rates[105] == pytest.approx(0.01 + 0.99 / 2)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)
    assert rates[11:] == sorted(rates[11:], reverse=True)


def test_the_average_is_exponential_and_forgets_its_start() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    mine = Learning(module, nn.Linear(1, 1, bias=False), torch.optim.AdamW(module.parameters()))
    nn.init.ones_(mine.average.weight)
    mine.step = 0
    mine.remember(0.9)
    assert mine.average.weight.item() == pytest.approx(0.1), "(1 + step) / (10 + step) of what it was"
    mine.step = 1000
    mine.remember(0.9)
    assert mine.average.weight.item() == pytest.approx(0.09)


def test_gradients_are_clipped_and_biases_do_not_decay() -> None:
    module = nn.Linear(2, 2)
    mine = Learning.of(module, learning_rate=1e-3, weight_decay=0.1)
    groups = mine.optimiser.param_groups
    assert [(group["weight_decay"], [one.ndim for one in group["params"]]) for group in groups] == [
        (0.1, [2]),
        (0, [1]),
    ]
    mine.descend((1000 * module(torch.ones(1, 2))).sum(), rate=0.5, clip=2.0)
    length = torch.cat([one.grad.flatten() for one in module.parameters()]).norm()
    assert length.item() == pytest.approx(2.0, rel=1e-4)
    assert {group["lr"] for group in mine.optimiser.param_groups} == {0.5}
    assert mine.step == 1


# --- the loop


@dataclass(frozen=True)
class Script:
    """A check that says what it is told, epoch by epoch; the module it was shown."""

    robust: tuple[float, ...]
    seen: list[dict[str, Tensor]] = field(default_factory=list)

    def __call__(self, module: nn.Module) -> Checked:
        self.seen.append({name: value.clone() for name, value in module.state_dict().items()})
        return Checked(self.robust[len(self.seen) - 1], 0.9)


def trained(scenes: Scenes, check: Any = None, *, checkpoint: Path | None = None, after_step=None, **options: Any):
    """A run on a new network; the network too."""
    target = classifier()
    mine = learner(target, scenes, *options.pop("threats", ()), **options)
    how: dict[str, Any] = {"after_step": after_step} if after_step else {}
    check = check or (lambda module: Checked(0.5, 0.5))
    return harden(target.module, mine, told={"of": "this"}, check=check, checkpoint=checkpoint, **how), target.module


@pytest.mark.parametrize("autocast", [True, False])
def test_code_that_needs_images_in_one_piece_is_trained_and_goes_on(
    photographs: Scenes, tmp_path: Path, autocast: bool
) -> None:
    """And a parameter without gradients has no moments to be read back."""
    losses = []
    for epochs in (2, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            target = classifier(Flat())
        mine = learner(target, photographs, epochs=epochs, autocast=autocast)
        how = {"told": {}, "check": lambda module: Checked(0.5, 0.5), "checkpoint": tmp_path / "checkpoint.safetensors"}
        losses.append(harden(target.module, mine, **how).losses)  # type: ignore[arg-type]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_best_epoch_is_what_comes_back(photographs: Scenes) -> None:
    script = Script((0.4, 0.7, 0.6, 0.5))
    run, _ = trained(photographs, script, epochs=4)
    assert run.best_epoch == 2
    assert same(run.module.state_dict(), script.seen[1])
    assert not same(run.module.state_dict(), script.seen[3])
    assert [epoch.robust for epoch in run.history] == [0.4, 0.7, 0.6, 0.5]
    assert [(epoch.epoch, epoch.epochs) for epoch in run.history] == [(number, 4) for number in (1, 2, 3, 4)]
    assert len(run.losses) == 12
    assert not run.module.training
    means = [sum(run.losses[first : first + 3]) / 3 for first in range(0, 12, 3)]
    assert [epoch.loss for epoch in run.history] == pytest.approx(means)


def test_time_is_told_with_the_time_of_the_checks(photographs: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])

    def check(module: nn.Module) -> Checked:
        clock[0] += 60
        return Checked(0.5, 0.5)

    def after_step(step: int, steps: int, loss: float) -> None:
        clock[0] += 10

    run, _ = trained(photographs, check, epochs=3, after_step=after_step)
    assert [epoch.seconds for epoch in run.history] == [90, 180, 270]
    assert [epoch.seconds_left for epoch in run.history] == [180, 90, 0]


def test_steps_are_counted_over_all_epochs(photographs: Scenes) -> None:
    steps: list[tuple[int, int]] = []
    trained(photographs, epochs=2, after_step=lambda step, of, loss: steps.append((step, of)))
    assert steps == [(number, 6) for number in range(1, 7)]


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (2, 4), (3, 5)])
def test_it_ends_when_nothing_gets_better(photographs: Scenes, patience: int, epochs: int) -> None:
    run, _ = trained(photographs, Script((0.4, 0.7, 0.6, 0.5, 0.6, 0.6)), epochs=6, patience=patience)
    assert len(run.history) == epochs
    assert run.best_epoch == 2


def test_a_collapse_goes_back_and_searches_harder(photographs: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[tuple[int, float, float]] = []
    real = Signs.shard

    def listen(mine: Signs, module: nn.Module, number: int):
        recipe = mine.plan.recipe
        searched.append((recipe.steps, recipe.step_size, recipe.ball_step))
        return real(mine, module, number)

    monkeypatch.setattr(Signs, "shard", listen)
    script = Script((0.8, 0.7, 0.3, 0.85))
    after: list[dict[str, Tensor]] = []
    target = classifier()

    def report(epoch: loop.Epoch) -> None:
        after.append({name: value.clone() for name, value in target.module.state_dict().items()})

    mine = learner(target, photographs, recipe="fast", epochs=4)
    run = harden(target.module, mine, told={}, check=script, report=report)
    assert searched == [(1, 0.5, 1.25)] * 9 + [(2, 0.25, 0.625)] * 3
    assert same(after[2], script.seen[0]), "the weights of epoch 1"
    assert not same(after[1], script.seen[0])
    assert [bool(epoch.note) for epoch in run.history] == [False, False, True, False]
    assert "epoch 1" in run.history[2].note
    assert run.best_epoch == 4


def test_a_figure_near_nothing_does_not_collapse(photographs: Scenes) -> None:
    run, _ = trained(photographs, Script((0.02, 0.01, 0.01)), epochs=3)
    assert [epoch.note for epoch in run.history] == ["", "", ""]


def test_searches_are_not_doubled_for_ever(photographs: Scenes) -> None:
    mine = learner(classifier(), photographs)
    assert loop._harder(mine, 9).plan.recipe.steps == 8 * mine.plan.recipe.steps


def test_a_slow_decline_is_no_collapse(photographs: Scenes) -> None:
    run, _ = trained(photographs, Script((0.8, 0.49, 0.49)), epochs=3)
    assert [epoch.note for epoch in run.history] == ["", "", ""]


HOW: dict[str, dict[str, Any]] = {
    "warm": {"threats": ("patch:10%@worst", "linf:8/255"), "recipe": "warm", "world": "drive-by"},
    "class": {"threats": ("patch:5%",), "recipe": "class", "awp": 0.01},
    "universal": {"threats": ("patch:10%",), "recipe": "universal", "ema": 0.9},
    "trades": {"threats": ("patch:10%",), "recipe": replace(RECIPES["trades"], steps=2), "frozen_norm": True},
}


@pytest.mark.parametrize("how", HOW)
def test_a_killed_run_goes_on_to_the_same_bits(photographs: Scenes, tmp_path: Path, how: str) -> None:
    """Killed in the middle of its third epoch, after a collapse in the second."""
    scenes = photographs.take(torch.arange(4)) if how == "universal" else photographs
    told = HOW[how] | {"epochs": 4}
    steps = 3 if how != "universal" else 1
    whole, module = trained(scenes, Script((0.9, 0.3, 0.8, 0.85)), **told)

    def dies(step: int, of: int, loss: float) -> None:
        if step == 2 * steps + 1:
            raise Killed

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        trained(scenes, Script((0.9, 0.3)), checkpoint=path, after_step=dies, **told)
    seen: list[int] = []
    again, other = trained(
        scenes, Script((0.8, 0.85)), checkpoint=path, after_step=lambda step, *_: seen.append(step), **told
    )
    assert seen[0] == 2 * steps + 1, "from the last whole epoch on"
    assert again.losses == whole.losses
    assert same(again.module.state_dict(), whole.module.state_dict())
    assert same(other.state_dict(), module.state_dict())
    plain = [replace(epoch, seconds=0.0, seconds_left=0.0) for epoch in whole.history]
    assert [replace(epoch, seconds=0.0, seconds_left=0.0) for epoch in again.history] == plain
    assert again.history[-1].seconds > again.history[1].seconds


def test_a_finished_run_trains_no_more_and_another_is_refused(photographs: Scenes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    whole, _ = trained(photographs, checkpoint=path, epochs=2)
    again, _ = trained(photographs, Script(()), checkpoint=path, epochs=2)
    assert same(again.module.state_dict(), whole.module.state_dict())
    target = classifier()
    with pytest.raises(UserError, match="other options"):
        harden(target.module, learner(target, photographs), told={"of": "that"}, check=Script(()), checkpoint=path)


def test_the_seed_decides_every_bit(photographs: Scenes) -> None:
    ends = []
    with torch.random.fork_rng():
        for seed, elsewhere in ((0, 1), (0, 2), (1, 2)):
            torch.manual_seed(elsewhere)
            before = torch.get_rng_state()
            ends.append(trained(photographs, epochs=1, seed=seed)[0].losses)
            assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_norms_are_kept_where_asked(photographs: Scenes, frozen: bool) -> None:
    run, module = trained(photographs, epochs=1, frozen_norm=frozen)
    fresh = network()
    for end in (run.module, module):
        assert torch.equal(end.norm.running_mean, fresh.norm.running_mean) == frozen
        assert not torch.equal(end.norm.weight, fresh.norm.weight), "scale and shift learn all the same"


def test_dropout_is_off_while_it_trains(photographs: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[tuple[bool, bool]] = []
    real = Signs.loss

    def listen(mine: Signs, module: Net, shown: Labelled) -> Tensor:
        modes.append((module.norm.training, module.drop.training))
        return real(mine, module, shown)

    monkeypatch.setattr(Signs, "loss", listen)
    trained(photographs, epochs=1)
    assert modes == [(True, False)] * 3


def test_the_loss_is_that_of_moved_weights_with_awp(photographs: Scenes) -> None:
    plain, one = trained(photographs, epochs=1)
    moved, other = trained(photographs, epochs=1, awp=0.05)
    assert moved.losses[0] == plain.losses[0], "what is told is the loss of the weights as they are"
    assert not same(one.state_dict(), other.state_dict())


def test_hardening_makes_robust(photographs: Scenes) -> None:
    """The same fresh attack before and after: a patch no longer beats what it beat."""

    def robust(module: nn.Module) -> float:
        target = classifier(module)
        threat = load_threat("patch:10%", photographs, seed=0, resolution_px=4)
        settings = Settings(**(SEARCH | {"steps": 10, "per_scene": True}))
        worn = attack(target, photographs, threat, world=DIGITAL, settings=settings, seed=9).artwork
        judged = HeldOut(target, photographs, DIGITAL, 1, 0)
        (answers,) = judged.answers(worn)
        return (answers.argmax(1) == judged.truth).float().mean().item()

    run, _ = trained(
        photographs, lambda module: Checked(robust(module), 1.0), recipe="pgd", epochs=10, learning_rate=2e-2, ema=0.5
    )
    assert robust(network().eval()) < 0.5
    assert robust(run.module) > 0.8


def test_one_process_needs_no_company() -> None:
    assert (ranks.size(), ranks.rank()) == (1, 0)
    assert ranks.gathered([1, 2]) == [1, 2]
    assert ranks.mean(0.25) == ranks.agreed(0.25) == 0.25
    with ranks.joined("cpu") as device:
        assert device == "cpu"
        assert ranks.size() == 1
