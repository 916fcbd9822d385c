"""What a step of hardening costs, in steps of clean training: CPU time, one thread, the kinds taking turns.

python tests/benchmarks/hardening.py data/gtsrb [--repeats 9] [--threat patch:10%@worst]

With two folders of `physadv harden --judge` beside it (--cheap DIR --dear DIR), also the paired difference of their
robust accuracy under the threat of their training.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from physadv.files import read_json
from physadv.harden import loop
from physadv.harden.classify import Signs, labelled_source
from physadv.harden.losses import Labelled
from physadv.harden.recipe import Plan, parse_recipe
from physadv.learning import Learning
from physadv.scan import paired_difference
from physadv.scenes import load_scenes
from physadv.scenes.canvas import spread
from physadv.targets import Classifier, load_target
from physadv.threats import load_threat
from physadv.transforms.world import DIGITAL


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(1)
    scenes = load_scenes(f"gtsrb:{options.data / 'train'}", limit=512)
    target = load_target("builtin:gtsrb")
    assert isinstance(target, Classifier)
    threat = load_threat(options.threat, scenes, seed=0, resolution_px=16)
    warm = parse_recipe("warm")
    recipes = {"warm": warm, "ten steps": replace(warm, steps=10, candidates=8)}
    run = Learning.of(target.module, learning_rate=1e-3, weight_decay=1e-2)
    kinds: dict[str, Callable[[int], object]] = {}
    for name, recipe in recipes.items():
        plan = Plan(recipe=recipe, frozen_norm=True)
        source = labelled_source(target, scenes, [threat], share=plan.shard)
        kinds[name] = _hardening(run, Signs.of(target, [source], world=DIGITAL, plan=plan, seed=0))
    learner = Signs.of(target, [source], world=DIGITAL, plan=plan, seed=0)
    kinds |= {"clean": _clean(run, learner), "photographs": lambda number: _photographs(learner, number)}
    times = {name: statistics.median(values) for name, values in _measured(kinds, options.repeats).items()}
    told = {name: {"ms_per_image": 1000 * value / 64, "ratio": value / times["clean"]} for name, value in times.items()}
    print(json.dumps(told, indent=1))
    if options.cheap and options.dear:
        print(json.dumps(_difference(options), indent=1))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threat", default="patch:10%@worst")
    parser.add_argument("--cheap", type=Path, help="folder of the cheap hardening")
    parser.add_argument("--dear", type=Path, help="folder of the ten-step hardening")
    return parser.parse_args(arguments)


def _measured(kinds: dict[str, Callable[[int], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of a step of each kind, in turn; the first round is for warming up."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(repeats + 1):
        for name, step in kinds.items():
            start = time.process_time()
            step(number)
            times[name].append(time.process_time() - start)
    return {name: values[1:] for name, values in times.items()}


def _hardening(run: Learning[torch.nn.Module], learner: Signs) -> Callable[[int], object]:
    return lambda number: loop._step(run, learner, number)


def _clean(run: Learning[torch.nn.Module], learner: Signs) -> Callable[[int], object]:
    """The same step of the optimiser on photographs without artworks."""

    def step(number: int) -> None:
        images, rows = _photographs(learner, number)
        labels = learner.sources[0].labels
        none, ones = torch.full((64,), -1), torch.ones(64)
        batch = Labelled(images, labels[rows], ones, torch.zeros(64), none)
        loop._train(run.module, learner.plan)
        run.descend(learner.loss(run.module, batch), rate=1e-3, clip=5.0)
        run.remember(0.99)

    return step


def _photographs(learner: Signs, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a loader does: 64 photographs, cut to the target's frame, and their rows."""
    scenes = learner.sources[0].scenes
    rows = torch.arange(64 * number, 64 * number + 64) % len(scenes)
    views = DIGITAL.draw(rows.tolist(), seed=0)
    return DIGITAL.photograph(None, scenes.take(rows), views, frame=learner.target.frame), rows


def _difference(options: argparse.Namespace) -> dict[str, object]:
    """Robust accuracy of the cheap minus that of the dear one, photograph by photograph, interval over tracks."""
    rights = []
    for folder in (options.cheap, options.dear):
        known = read_json(folder / "judged.json")["known"]
        weights = load_target(f"safetensors:{folder}").weights_hash
        key = next(key for key in known if key.startswith(f"{weights} {options.threat} "))
        rights.append(torch.tensor(known[key][1], dtype=torch.float64).mean(0))
    test = load_scenes(f"gtsrb:{options.data / 'test'}")
    groups = test.take(torch.tensor(spread(test.groups, len(rights[0])))).groups
    gain = paired_difference((rights[0] - rights[1]).numpy(), groups, seed=0).to_json()
    return {"cheap": float(rights[0].mean()), "dear": float(rights[1].mean()), "cheap - dear": gain}


if __name__ == "__main__":
    main()
