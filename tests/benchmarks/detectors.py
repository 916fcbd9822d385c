"""One artwork against a detector on street photographs: made on `train`, judged on `test`, and by cross-validation.

    python tests/benchmarks/detectors.py DATA/roadsign OUT --target export:FILE.pt2 --sign stop --threat patch:21%

With --folds 3 on `train` alone. Writes OUT/detectors.jsonl, a line a run: attack success, its controls and the AP50
under each, with intervals.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from physadv.attacks import Settings, attack
from physadv.evaluation import Evaluation, evaluate
from physadv.scenes import Scenes, load_scenes
from physadv.stats import cluster_rate
from physadv.targets import Detector, load_target
from physadv.threats import load_threat
from physadv.transforms.stages import derive
from physadv.transforms.world import load_world


def main() -> None:
    args = _parsed()
    torch.set_flush_denormal(True)
    target = load_target(args.target)
    assert isinstance(target, Detector)
    train, test = (_scenes(args.data / split / "instances.json", args.sign, target) for split in ("train", "test"))
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.folds:
        _told(args, "test", [_made_and_judged(args, target, train, test)])
        return
    fold = _folds(train, args.folds)
    parts = [
        _made_and_judged(args, target, *(train.take((mask).nonzero()[:, 0]) for mask in (fold != row, fold == row)))
        for row in range(args.folds)
    ]
    _told(args, f"{args.folds}-fold cross-validation on train", parts)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--sign", default="stop")
    parser.add_argument("--threat", default="stickers")
    parser.add_argument("--goal", default="hide")
    parser.add_argument("--objective", default="margin")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--world", default="drive-by")
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--judge-views", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _scenes(file: Path, sign: str, target: Detector) -> Scenes:
    return load_scenes(f"coco:{file}", classes=[sign], street_px=target.frame.size_px)


def _folds(scenes: Scenes, folds: int) -> torch.Tensor:
    """The fold of each photograph: groups stay together, and so do those that carry the artwork in equal parts."""
    wearing = sorted({scenes.groups[row] for row in scenes.wearing.nonzero()[:, 0].tolist()})
    others = sorted(set(scenes.groups) - set(wearing))
    of_group = {group: row % folds for part in (wearing, others) for row, group in enumerate(part)}
    return torch.tensor([of_group[group] for group in scenes.groups])


def _made_and_judged(args: argparse.Namespace, target: Detector, made: Scenes, judged: Scenes) -> Evaluation:
    world = load_world(args.world)
    settings = Settings(
        goal=args.goal,
        objective=args.objective,
        steps=args.steps,
        batch=8,
        views=1,
        check_every=50,
        held_out=min(64, int(made.wearing.sum())),
    )
    threat = load_threat(args.threat, made, seed=args.seed)
    found = attack(target, made, threat, world=world, settings=settings, seed=args.seed)
    found.artwork.save(args.out / f"artwork-{derive(*judged.names) % 10**6}")
    how: dict[str, Any] = {"goal": args.goal, "views": args.judge_views, "seed": args.seed, "worlds": ()}
    return evaluate(target, judged, found.artwork, world=world, threat=threat, **how)


def _told(args: argparse.Namespace, how: str, parts: list[Evaluation]) -> None:
    """Cases of all parts together; AP50 of each part."""
    said: dict[str, Any] = {name: str(getattr(args, name)) for name in ("target", "sign", "threat", "steps", "world")}
    said |= {"judged": how, "found": _rate(parts, None, args.seed)}
    said |= {what: _rate(parts, what, args.seed) for what in parts[0].verdict.attacked}
    said |= {"promise": [part.metrics["promise"] for part in parts]}
    said |= {
        "ap50": [{name: told["ap50"] for name, told in part.metrics["detection"]["classes"].items()} for part in parts]
    }
    with (args.out / "detectors.jsonl").open("a") as lines:
        lines.write(json.dumps(said) + "\n")
    for what in ("found", *parts[0].verdict.attacked):
        print(what, said[what])
    for ap50 in said["ap50"]:
        print({name: {arm: one["ap"] for arm, one in told.items()} for name, told in ap50.items()})


def _rate(parts: list[Evaluation], what: str | None, seed: int) -> dict[str, Any]:
    won: list[bool] = []
    groups: list[str] = []
    for part in parts:
        verdict = part.verdict
        among = verdict.correct if what else torch.ones_like(verdict.correct)
        reached = verdict.success(what) if what else verdict.correct
        won += reached[among].tolist()
        groups += [verdict.held_out.scenes.groups[row] for row in verdict.scene[among.cpu()].tolist()]
    return cluster_rate(won, groups, seed=seed).to_json()


if __name__ == "__main__":
    main()
