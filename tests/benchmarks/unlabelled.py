"""What photographs without labels are worth: 10 % of the labels alone, against the same and all the rest without.

python tests/benchmarks/unlabelled.py data/gtsrb OUT [--variant rst] [--seeds 3] [--steps 400] [--threat linf:4/255]

Both begin with the same standard network, trained on the 10 % alone, and take the same steps of the same recipe; both
are judged by fresh attacks (2 places x 50 steps) on 300 photographs of gtsrb/test. Trainings that are in OUT are kept.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from physadv.files import read_json, write_json
from physadv.harden.classify import Signs, Source, labelled_source
from physadv.harden.judge import attempt
from physadv.harden.loop import Checked, harden
from physadv.harden.recipe import Plan, parse_recipe
from physadv.harden.trials import Trial, Tries
from physadv.harden.unlabelled import pseudo_labels, split, unlabelled_source
from physadv.question import truth_of
from physadv.scan import paired_difference
from physadv.scenes import Scenes, load_scenes
from physadv.scenes.canvas import spread
from physadv.stats import cluster_rate
from physadv.targets import Classifier
from physadv.targets.models import read_classifier, save_target
from physadv.threats import load_threat
from physadv.training import Recipe, train
from physadv.transforms.world import DIGITAL, load_world

ARCH, SHARE, STANDARD_EPOCHS, OTHERS = "small-cnn", 0.1, 60, 24  # OTHERS: unlabelled images of a shard of 32


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    scenes, test = (load_scenes(f"gtsrb:{options.data / part}") for part in ("train", "test"))
    judged = test.take(torch.tensor(spread(test.groups, 300)))
    lines = [one for seed in range(options.seeds) for one in _seed(options, scenes, judged, seed)]
    pairs = [[line["right"] for line in lines if line["what"] == what] for what in ("alone", options.variant)]
    alone, more = (torch.tensor(rows, dtype=torch.float64).mean(0) for rows in pairs)
    gain = paired_difference((more - alone).numpy(), judged.groups, seed=0).to_json()
    write_json(options.out / "unlabelled.json", {"runs": lines, "gain": gain})
    print(json.dumps({"gain": gain}))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", default="rst")
    parser.add_argument("--weight", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threat", default="linf:4/255")
    parser.add_argument("--recipe", default="pgd")
    parser.add_argument("--inner-steps", type=int, default=3)
    return parser.parse_args(arguments)


def _seed(options: argparse.Namespace, scenes: Scenes, judged: Scenes, seed: int) -> list[dict[str, object]]:
    """Both trainings of one choice of labels."""
    with_labels, without = (scenes.take(rows) for rows in split(scenes, SHARE, seed=seed))
    teacher = _standard(options.out / f"standard-{seed}", with_labels, seed)
    guessed = pseudo_labels(teacher, without)[0] == truth_of(without, teacher.classes)
    print(
        f"seed {seed}: {len(with_labels)} labels, {guessed.float().mean():.1%} of the pseudo-labels are right",
        flush=True,
    )
    lines = []
    for what in ("alone", options.variant):
        place = options.out / f"{what}-{options.steps}-{seed}"
        if not (place / "line.json").is_file():
            hardened = _hardened(options, teacher, with_labels, None if what == "alone" else without, seed)
            save_target(place, hardened, ARCH, {})
            trial = Trial(options.threat, DIGITAL, Tries(steps=50, restarts=2))
            outcome = attempt(hardened, judged, trial, seed=seed)
            write_json(place / "line.json", _line(what, seed, judged, outcome.clean[0], outcome.right[0]))
        lines.append(read_json(place / "line.json"))
        print(json.dumps({name: value for name, value in lines[-1].items() if name != "right"}), flush=True)
    return lines


def _line(what: str, seed: int, judged: Scenes, clean: torch.Tensor, right: torch.Tensor) -> dict[str, object]:
    rates = {
        name: cluster_rate(values, judged.groups, seed=0).to_json()
        for name, values in (("clean", clean), ("robust", right))
    }
    return {"what": what, "seed": seed, **rates, "right": right.int().tolist()}


def _standard(place: Path, scenes: Scenes, seed: int) -> Classifier:
    """The standard network of the labels that there are."""
    if not place.is_dir():
        how = {"world": load_world("digital+drive-by"), "context": 0.1, "recipe": Recipe(epochs=STANDARD_EPOCHS)}
        target = train(ARCH, [scenes], **how, seed=seed, report=lambda progress: None)  # type: ignore[arg-type]
        save_target(place, target, ARCH, {})
    return read_classifier(place, name=place.name)[0]


def _hardened(
    options: argparse.Namespace, teacher: Classifier, scenes: Scenes, without: Scenes | None, seed: int
) -> Classifier:
    recipe = replace(parse_recipe(options.recipe), steps=options.inner_steps, ball_step=0.5)
    plan = Plan(recipe=recipe, frozen_norm=True)
    shares = (plan.shard, 0) if without is None else (plan.shard - OTHERS, OTHERS)

    def threats(of: Scenes) -> list:  # type: ignore[type-arg]
        return [load_threat(options.threat, of, seed=seed, resolution_px=16)]

    sources: list[Source] = [labelled_source(teacher, scenes, threats(scenes), share=shares[0])]
    if without is not None:
        how = {"variant": options.variant, "weight": options.weight, "share": shares[1]}
        sources.append(unlabelled_source(teacher, without, threats(without), **how))
    epochs = max(1, round(options.steps / (len(scenes) // (shares[0] * plan.batch // plan.shard))))
    plan = replace(plan, epochs=epochs)
    target, _ = read_classifier(options.out / f"standard-{seed}", name="hardened")
    learner = Signs.of(target, sources, world=DIGITAL, plan=plan, seed=seed)
    found = harden(target.module, learner, told={}, check=lambda module: Checked(0.0, 0.0))
    return Classifier.of(found.module, classes=target.classes, frame=target.frame, name="hardened")


if __name__ == "__main__":
    main()
