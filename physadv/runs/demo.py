"""`physadv demo`: attack, judge, print; then harden, and the same attack again."""

import time
from pathlib import Path
from typing import Any

from physadv.config import AttackOptions, HardenOptions
from physadv.console import Console
from physadv.evaluation import accuracy
from physadv.files import write_json
from physadv.handwork import print_sheet
from physadv.runs.attack import run_attack
from physadv.runs.harden import train_only
from physadv.scenes import load_scenes
from physadv.transforms.stages import derive
from physadv.transforms.world import load_world

ATTACK: dict[str, Any] = {"goal": "class:speed-limit-50"}
HARDEN: dict[str, Any] = {
    "scenes": "staged:all",
    "threat": ["stickers"],
    "world": "drive-by",
    "recipe": "class",
    "epochs": 2,
    "frozen_norm": True,
}
HARDENED, AGAIN = "hardened", "again"


def run_demo(out: Path, *, seed: int, device: str, overwrite: bool, command: str, console: Console) -> dict[str, Any]:
    """Attack the shipped victim's stop sign, judge the artwork everywhere, print it; harden, and attack afresh."""
    shared: dict[str, Any] = {"seed": seed, "device": device, "overwrite": overwrite}
    how: dict[str, Any] = {"command": command, "console": console}
    metrics = run_attack(AttackOptions(out=out, **shared, **ATTACK), **how)
    print_sheet(out, None)
    console.say("now the model is trained against such stickers, on all drawn signs, and attacked again from nothing")
    start = time.monotonic()
    given, hardened = train_only(HardenOptions(out=out / HARDENED, **shared, **HARDEN), **how)
    seconds = time.monotonic() - start
    spec = f"safetensors:{out / HARDENED}"
    again = run_attack(AttackOptions(out=out / AGAIN, target=spec, **shared, **ATTACK), **how)
    world, scenes = load_world(HARDEN["world"]), load_scenes(HARDEN["scenes"]).to(device)
    seed = derive(seed, "demo")
    sides = {"before": given.before, "after": hardened}
    clean = {side: accuracy(target, scenes, world, seed=seed).to_json() for side, target in sides.items()}
    metrics["hardened"] = {
        "attacked": again["attacked"],
        "promise": again["promise"],
        "clean": clean,
        "seconds": seconds,
    }
    write_json(out / "metrics.json", metrics)
    return metrics
