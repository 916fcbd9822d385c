"""`physadv bench`: what a step of the attack costs beside the bare model's, and the peers' beside it."""

import platform
import time
from importlib.metadata import version
from typing import Any

from physadv import __version__
from physadv.bench.bench import Bench, measure
from physadv.bench.case import SIZES, size_of
from physadv.bench.plot import ratios_png
from physadv.config import BenchOptions
from physadv.console import Console
from physadv.files import prepare_folder, write_atomic, write_json
from physadv.report.bench import headline, write_bench_report
from physadv.runs.shared import check_device


def run_bench(options: BenchOptions, *, command: str, console: Console) -> dict[str, Any]:
    """Measure, and write bench.json, bench.png and report.html."""
    check_device(options.device)
    bench = _bench(options)
    out = prepare_folder(options.out, overwrite=options.overwrite)
    start = time.monotonic()
    found = measure(bench, console.say)
    run = {
        "command": command,
        "config": options.model_dump(mode="json", exclude={"out", "overwrite"}),
        "seed": options.seed,
        "seconds": time.monotonic() - start,
        "versions": {"physadv": __version__, "torch": version("torch"), "python": platform.python_version()},
    }
    metrics = {"headline": headline(found)} | found | {"run": run}
    picture = ratios_png(found)
    write_json(out / "bench.json", metrics)
    write_atomic(out / "bench.png", picture)
    write_bench_report(out / "report.html", metrics, picture)
    return metrics


def _bench(options: BenchOptions) -> Bench:
    """UserError: a target that there is not."""
    sizes = tuple(size_of(name) for name in options.only) if options.only else SIZES
    if options.quick:
        sizes = sizes if options.only else SIZES[:1]
    how = {name: getattr(options, name) for name in ("repeats", "seed", "device", "batch", "precision", "compiled")}
    return Bench(sizes, **how, compare=not options.quick)
