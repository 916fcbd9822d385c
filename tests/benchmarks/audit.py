"""The planted defences and undefended targets, audited on GTSRB: the table of docs/audit.md.

    python tests/benchmarks/audit.py data/gtsrb OUT [--target SPEC ...] [--limit 300]

One audit after another; what is there already is not run again.
"""

import argparse
from pathlib import Path
from typing import Any

from physadv.config import AuditOptions
from physadv.console import Console
from physadv.files import read_json
from physadv.runs import run_audit

PLANTED = ("jpeg:75", "bits:4", "thermometer:16", "resize-pad:0.85", "pruning:1", "mahalanobis", "squeezing:4")
LEARNING = ("mahalanobis", "squeezing:4")
HEAD = "| target | clean | naive | adaptive | flags | seconds |\n|---|---|---|---|---|---|"


def audited(out: Path, gtsrb: Path, *, limit: int, target: str, defence: str | None) -> dict[str, Any]:
    folder = out / (defence or target).replace(":", "-").replace("/", "-")
    if (folder / "audit.json").is_file():
        return read_json(folder / "audit.json")
    fit = f"gtsrb:{gtsrb / 'train'}" if defence in LEARNING else None
    scenes = f"gtsrb:{gtsrb / 'test'}"
    options = AuditOptions(
        out=folder, target=target, defence=defence, fit=fit, scenes=scenes, limit=limit, overwrite=True
    )
    with Console() as console:
        return run_audit(options, command="tests/benchmarks/audit.py", console=console)


def row(name: str, metrics: dict[str, Any]) -> str:
    rates = [metrics["clean_accuracy"], *(metrics["robust_accuracy"][how] for how in ("naive", "adaptive"))]
    cells = [f"{100 * r['rate']:.1f} [{100 * r['ci95'][0]:.1f}–{100 * r['ci95'][1]:.1f}]" for r in rates]
    flags = ", ".join(flag for flag, said in metrics["flags"].items() if said["raised"]) or "none"
    return "| " + " | ".join([name, *cells, flags, f"{metrics['seconds']:.0f}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gtsrb", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", action="append", help="undefended targets, instead of builtin:gtsrb alone")
    parser.add_argument("--limit", type=int, default=300)
    given = parser.parse_args()
    cases = [(target, None) for target in given.target or ["builtin:gtsrb"]]
    print(HEAD)
    for target, defence in [*cases, *(("builtin:gtsrb", name) for name in PLANTED)]:
        metrics = audited(given.out, given.gtsrb, limit=given.limit, target=target, defence=defence)
        print(row(defence or target, metrics), flush=True)


if __name__ == "__main__":
    main()
