"""`physadv harden --submit PARTITION --sweep recipe=warm,pgd`: a training per combination, a SLURM job each."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from physadv.config import HardenOptions, configure
from physadv.console import Console
from physadv.errors import UserError
from physadv.files import prepare_folder, write_json
from physadv.runs.harden import CHECKPOINT, arch_of, check_trainable, run_harden
from physadv.runs.harden_detector import completed, detector_plan
from physadv.scenes.spec import STREETS
from physadv.targets.models import DETECTORS

LOCAL = "local"
OF_THE_SWEEP = ("out", "submit", "sweep", "submit_minutes", "submit_processes", "overwrite", "resume")
CPUS = 4  # of each process


@dataclass(frozen=True)
class Training:
    """What a job runs; where the cluster takes its machine away, it goes on elsewhere from the last checkpoint."""

    options: HardenOptions
    command: str
    processes: int

    def __call__(self) -> dict[str, Any]:
        """The headline, or why there is none."""
        if self.processes > 1:
            _meet()
        begun = (self.options.out / CHECKPOINT).is_file()
        options = self.options.model_copy(update={"resume": begun, "overwrite": not begun})
        try:
            with Console() as console:
                metrics = run_harden(options, command=self.command, console=console)
        except UserError as error:
            return {"error": str(error)}
        return {"headline": metrics.get("headline", "")}

    def checkpoint(self) -> Any:
        """submitit asks for this when a job runs out of time or is preempted."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415

        return DelayedSubmission(self)


def _meet() -> None:
    """Tell the tasks of a job of each other, as torchrun would."""
    from submitit.helpers import TorchDistributedEnvironment  # noqa: PLC0415

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def run_sweep(options: HardenOptions, *, command: str, console: Console) -> dict[str, Any]:
    """Submit every training, wait for all, and write sweep.json. SLURM's jobs outlive an interrupt, local ones do not.

    UserError: no submitit, no SLURM on this machine, a combination that `harden` would refuse.
    """
    trainings = combinations(options)
    _check_cluster(options)
    prepare_folder(options.out, overwrite=options.overwrite, resume=options.resume)
    executor = _executor(options)
    jobs: list[Any] = []
    for name, training in trainings.items():
        jobs.append(executor.submit(Training(training, command, options.submit_processes)))
        console.say(f"{name}: job {jobs[-1].job_id}")
        if options.submit == LOCAL:
            jobs[-1].wait()
    told = [_outcome(name, training, job) for (name, training), job in zip(trainings.items(), jobs, strict=True)]
    sweep = {"command": command, "submitted_to": options.submit, "trainings": told}
    write_json(options.out / "sweep.json", sweep)
    return sweep


def combinations(options: HardenOptions) -> dict[str, HardenOptions]:
    """The options of each training by its name, which is also its folder in --out.

    UserError: --sweep names no option, the same one twice, or a value that it does not take.
    """
    swept = [_values(text) for text in options.sweep or ()]
    names = [name for name, _ in swept]
    if len(set(names)) < len(names):
        raise UserError(f"--sweep names {_twice(names)} twice: join its values by commas.")
    given = {name: getattr(options, name) for name in options.model_fields_set - {*OF_THE_SWEEP}}
    made: dict[str, HardenOptions] = {}
    for chosen in product(*(values for _, values in swept)):
        here = dict(zip(names, chosen, strict=True))
        folder = (
            "_".join(re.sub(r"[^\w.=-]+", "-", f"{name}={value}").strip("-") for name, value in here.items()) or "run"
        )
        folder = folder if folder not in made else f"{folder}_{len(made) + 1}"
        said = {name: [value] if _is_list(name) else value for name, value in here.items()}
        made[folder] = configure(HardenOptions, given | said | {"out": options.out / folder}, None)
        _check_plan(made[folder])
    return made


def _check_plan(options: HardenOptions) -> None:
    """The UserError that `harden` would raise for the options of its loop; a detector's has its own."""
    check_trainable(options.target)
    arch, boxes = arch_of(options.target), options.scenes.partition(":")[0] in STREETS
    if arch in DETECTORS or (arch is None and boxes):
        detector_plan(completed(options))
    else:
        options.plan()


def _values(text: str) -> tuple[str, list[str]]:
    """`name=a,b`; values that hold commas themselves are joined by ;."""
    name, equals, rest = text.partition("=")
    name, separator = name.strip().replace("-", "_"), ";" if ";" in rest else ","
    values = list(dict.fromkeys(value.strip() for value in rest.split(separator) if value.strip()))
    if not equals or not values:
        raise UserError(f"--sweep {text} has no values: write it as NAME=VALUE,VALUE.")
    if name not in HardenOptions.model_fields or name in OF_THE_SWEEP:
        raise UserError(f"--sweep {text}: {name.replace('_', '-')} is no option of a training (physadv harden --help).")
    return name, values


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _is_list(name: str) -> bool:
    return "list" in str(HardenOptions.model_fields[name].annotation)


def _check_cluster(options: HardenOptions) -> None:
    if options.submit is None:
        raise UserError("--sweep is for a cluster: add --submit PARTITION, or --submit local for this machine.")
    if find_spec("submitit") is None:
        raise UserError("--submit needs submitit: pip install 'physadv[cluster]'.")
    if options.submit != LOCAL and shutil.which("sbatch") is None:
        raise UserError("There is no sbatch here: submit from a login node of the cluster, or with --submit local.")


def _executor(options: HardenOptions) -> Any:
    import submitit  # noqa: PLC0415

    local, cuda = options.submit == LOCAL, options.device.startswith("cuda")
    executor = submitit.AutoExecutor(options.out / "jobs", cluster="local" if local else "slurm")
    where: Mapping[str, Any] = {} if local else {"slurm_partition": options.submit}
    executor.update_parameters(
        name="physadv",
        timeout_min=options.submit_minutes,
        tasks_per_node=options.submit_processes,
        cpus_per_task=CPUS,
        gpus_per_node=options.submit_processes if cuda else 0,
        **where,
    )
    return executor


def _outcome(name: str, options: HardenOptions, job: Any) -> dict[str, Any]:
    """What a training came to, once it has ended."""
    from submitit.core.utils import FailedJobError, UncompletedJobError  # noqa: PLC0415

    told = {"name": name, "out": str(options.out), "job": str(job.job_id)}
    try:
        return told | job.results()[0]
    except (FailedJobError, UncompletedJobError):
        return told | {"error": f"it ended early; its last words are in {Path(job.paths.stderr)}"}
