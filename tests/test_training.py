"""Training: it learns, the seed decides everything, every source gets its share, and short runs end too."""

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from physadv import training
from physadv.errors import UserError
from physadv.evaluation import accuracy
from physadv.scenes import Scenes, load_scenes
from physadv.targets import load_target, save_classifier
from physadv.training import Recipe, check_sources, train
from physadv.transforms.world import DIGITAL, World, load_world

COLOURS = {"stop": (190, 20, 30), "yield": (30, 40, 190), "priority-road": (200, 180, 20)}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Thirty noisy pictures of three colours."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(10):
            pixels = random.normal(0, 25, (24, 24, 3)) + np.array(colour) * random.uniform(0.6, 1.2)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return load_scenes(f"imagefolder:{folder}")


@cache
def faces() -> Scenes:
    return load_scenes("staged:stop,yield,priority-road")


def trained(sources: list[Scenes], *, seed: int = 0, world: World = DIGITAL, report=lambda epoch: None, **recipe):
    recipe = Recipe(**({"epochs": 1, "batch": 10} | recipe))
    return train("small-cnn", sources, world=world, context=0.1, recipe=recipe, seed=seed, report=report)


def test_it_learns_and_reports_each_epoch(photographs: Scenes):
    epochs = []
    target = trained([photographs], epochs=6, report=epochs.append)
    assert accuracy(target, photographs, DIGITAL, seed=1).rate > 0.9
    assert [(epoch.epoch, epoch.epochs) for epoch in epochs] == [(number, 6) for number in range(1, 7)]
    assert epochs[-1].loss < 0.6 * epochs[0].loss
    assert epochs[-1].accuracy > 0.8
    assert epochs[-1].seconds_left == 0
    assert not target.module.training


def test_what_was_trained_comes_back_from_disk(photographs: Scenes, tmp_path: Path):
    target = trained([photographs])
    save_classifier(tmp_path, target, "small-cnn", {})
    loaded = load_target(f"safetensors:{tmp_path}")
    assert loaded.weights_hash == target.weights_hash
    assert (loaded.classes, loaded.frame) == (target.classes, target.frame)


def test_the_seed_decides_every_bit(photographs: Scenes):
    world, hashes = load_world("digital+drive-by"), []
    with torch.random.fork_rng():
        for seed, elsewhere in ((0, 1), (0, 2), (1, 2)):
            torch.manual_seed(elsewhere)
            before = torch.get_rng_state()
            hashes.append(trained([photographs], seed=seed, world=world).weights_hash)
            assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_world_is_the_augmentation(photographs: Scenes):
    assert trained([photographs]).weights_hash != trained([photographs], world=load_world("night")).weights_hash


@pytest.mark.parametrize(("batch", "share"), [(10, [8, 2]), (2, [1, 1])])
def test_every_batch_holds_photographs_and_staged_faces(
    monkeypatch: pytest.MonkeyPatch, photographs: Scenes, batch: int, share: list[int]
):
    shown: list[tuple[bool, tuple[str, ...]]] = []
    photograph = World.photograph

    def listen(world, artwork, scenes, views, *, frame):
        assert artwork is None
        shown.append((scenes.staged, scenes.names))
        return photograph(world, artwork, scenes, views, frame=frame)

    monkeypatch.setattr(World, "photograph", listen)
    trained([photographs, faces()], batch=batch)
    assert [len(names) for _, names in shown[:2]] == share
    assert [staged for staged, _ in shown[:2]] == [False, True]
    seen = Counter(name for staged, names in shown for name in names if not staged)
    assert set(seen.values()) == {1}, "no photograph twice in an epoch"
    assert len(seen) == len(photographs) // share[0] * share[0]


def test_no_view_is_drawn_twice(photographs: Scenes):
    drawn: list[tuple[int, int]] = []

    class Drawing(World):
        def draw(self, views, *, seed):
            drawn.extend((seed, view) for view in views)
            return super().draw(views, seed=seed)

    trained([photographs, faces()], epochs=2, world=Drawing(DIGITAL.name, DIGITAL.components))
    assert len(drawn) == len(set(drawn)) == 2 * 3 * 10
    assert len({seed for seed, _ in drawn}) == 2, "photographs and faces have streams of their own"


@pytest.mark.parametrize("epochs", [1, 2, 5, 7])
def test_trainings_of_a_few_steps_end(photographs: Scenes, epochs: int):
    target = trained([photographs.take(torch.arange(4))], epochs=epochs)
    assert all(bool(value.isfinite().all()) for value in target.module.state_dict().values())


def test_the_average_of_a_long_training_is_the_recipes(monkeypatch: pytest.MonkeyPatch, photographs: Scenes):
    """The weights are averaged with the recipe's decay, less only where the run is too short for it."""
    decays = []
    real = torch.optim.swa_utils.get_ema_multi_avg_fn
    monkeypatch.setattr(
        training.torch.optim.swa_utils, "get_ema_multi_avg_fn", lambda decay: decays.append(decay) or real(decay)
    )
    trained([photographs], epochs=2, ema=0.2)
    trained([photographs], epochs=2, ema=0.998)
    assert decays == pytest.approx([0.2, 1 - 4 / 6])


def test_what_does_not_fit_is_refused_before_anything_is_trained(photographs: Scenes, tmp_path: Path):
    with pytest.raises(UserError, match="small-cnn"):
        check_sources("vgg", [photographs])
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "mine" / "1.png")
    mine = load_scenes(f"imagefolder:{tmp_path}")
    with pytest.raises(UserError, match="same classes"):
        check_sources("small-cnn", [mine, faces()])
    with pytest.raises(UserError, match="does not know mine"):
        check_sources("small-cnn", [photographs], [mine])
    with pytest.raises(UserError, match="same classes"):
        trained([mine, faces()])
