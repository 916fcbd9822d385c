"""Which defaults keep their promise? One change at a time, judged in worlds that no row optimised in.

    python tests/benchmarks/ablation.py --backgrounds DIR --out FILE.md [--seeds 2] [--goal GOAL]

Each row attacks the shipped classifier on a staged stop sign. Finished rows are kept in FILE.jsonl, so a stopped run
goes on.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import physadv
from physadv.files import write_atomic
from physadv.stats import format_rate, wilson

UNSEEN = ("night", "bad-weather", "indoor-lab", "low-sun")
JUDGED_VIEWS = 200
ROWS: dict[str, dict[str, Any]] = {
    "default: margin κ 5, mean, PGD, 200 steps of 32 views": {},
    "cross-entropy": {"objective": "cross-entropy"},
    "tail: worst half (CVaR 0.5)": {"expectation": "cvar:0.5"},
    "Adam": {"optimiser": "adam"},
    "100 steps": {"steps": 100},
    "400 steps": {"steps": 400},
    "8 views a step": {"batch": 8, "views": 1},
    "64 views a step": {"batch": 32, "views": 2},
    "no physics (digital)": {"world": "digital"},
    "drive-by without print": {"without": "print"},
    "drive-by without light": {"without": "light"},
    "drive-by + parking-lot + phone-camera": {"world": "drive-by+parking-lot+phone-camera"},
}


def run(row: dict[str, Any], *, seed: int, goal: str, threat: str, backgrounds: Path | None) -> dict[str, list[int]]:
    """Successes and correct views, per world."""
    options = {name: value for name, value in row.items() if name not in ("world", "without")}
    world = physadv.load_world(row.get("world", "drive-by"))
    world = world.without(row["without"]) if "without" in row else world
    target = physadv.load_target("builtin:gtsrb")
    scenes = physadv.load_scenes("staged:stop", backgrounds=backgrounds)
    assert scenes.backgrounds is not None
    searched, scenes = (replace(scenes, backgrounds=scenes.backgrounds[start::2]) for start in (0, 1))
    place = physadv.load_threat(threat, searched, seed=seed)
    settings = physadv.Settings(goal=goal, **options)
    found = physadv.attack(target, searched, place, world=world, settings=settings, seed=seed)
    judge = physadv.load_world("drive-by")
    judged = physadv.evaluate(
        target, scenes, found.artwork, world=judge, goal=goal, views=JUDGED_VIEWS, seed=seed, worlds=UNSEEN
    ).metrics
    rates = {"drive-by": judged["attacked"], "promise": judged["promise"], **judged["worlds"]}
    return {name: [rate["k"], rate["n"]] for name, rate in rates.items()}


def table(results: dict[str, list[dict[str, list[int]]]]) -> str:
    """Markdown: each row pooled over its seeds."""
    lines = [f"| attack | drive-by | {' | '.join(UNSEEN)} | mean of the four | promise |", "|---" * 8 + "|"]
    for name, runs in results.items():
        pooled = {world: wilson(*map(sum, zip(*(one[world] for one in runs), strict=True))) for world in runs[0]}
        mean = sum(pooled[world].rate or 0.0 for world in UNSEEN) / len(UNSEEN)
        cells = [format_rate(pooled["drive-by"]), *(f"{100 * (pooled[world].rate or 0.0):.1f}" for world in UNSEEN)]
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * mean:.1f} | {format_rate(pooled['promise'])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backgrounds", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--goal", default="class:speed-limit-50")
    parser.add_argument("--threat", default="stickers:two-bars")
    options = parser.parse_args()
    kept = options.out.with_suffix(".jsonl")
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    said = [options.goal, options.threat, physadv.load_target("builtin:gtsrb").weights_hash]
    known = {(one["row"], one["seed"]): one["rates"] for one in done if one["said"] == said}
    for seed in range(options.seeds):
        for name, row in ROWS.items():
            if (name, seed) in known:
                continue
            given = {"goal": options.goal, "threat": options.threat, "backgrounds": options.backgrounds}
            known[name, seed] = run(row, seed=seed, **given)
            with kept.open("a") as file:
                file.write(json.dumps({"row": name, "seed": seed, "said": said, "rates": known[name, seed]}) + "\n")
            print(name, seed, known[name, seed], flush=True)
    results = {name: [known[name, seed] for seed in range(options.seeds)] for name in ROWS}
    write_atomic(options.out, table(results).encode())


if __name__ == "__main__":
    main()
