"""`physadv bench`: fair clocks, networks of the sizes they are named for, and a step close to the model's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from physadv.bench.bench import Bench, measure
from physadv.bench.case import SIZES, Case, case_of, size_of
from physadv.bench.clock import cpu_clock, interleaved, ratio, threads
from physadv.bench.models import FourConvolutions, ResNet18, ResNet50, ViTSmall
from physadv.bench.peers import PEERS, RADIUS, Victim, foolbox_pgd, found, kornia_loop, steps
from physadv.bench.plot import bars_of, ratios_png
from physadv.bench.shares import PHASES, phases
from physadv.config import BenchOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.report.bench import headline, peer_rows, rows
from physadv.runs import run_bench
from physadv.targets.base import frozen

GENEROUS = 1.4  # of the small case, whose own bar is 1.25
ROOT = Path(__file__).resolve().parent.parent
TRIES = 3  # a machine that is busy elsewhere gets another chance


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(size_of("cnn-64"), seed=0, device="cpu")


# --- clocks


def test_calls_take_turns_and_the_first_round_does_not_count():
    order: list[str] = []
    ticks = iter(range(100))
    calls = {name: lambda name=name: order.append(name) for name in ("one", "other")}
    spent = interleaved(calls, repeats=3, clock=lambda: float(next(ticks)))
    assert order == ["one", "other"] * 4
    assert spent == {"one": [1.0] * 3, "other": [1.0] * 3}


def test_the_ratio_is_the_median_of_the_rounds():
    assert ratio([2.0, 30.0, 3.3], [1.0, 10.0, 3.0]) == pytest.approx(2.0), "not 3.3 / 3, the ratio of the medians"


def test_the_clock_of_the_cpu_counts_work_and_not_waiting():
    start = cpu_clock()
    torch.rand(500, 500) @ torch.rand(500, 500)
    assert cpu_clock() > start


def test_threads_come_back_whatever_happens():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with pytest.raises(UserError), threads(before + 1):
        size_of("none")
    assert torch.get_num_threads() == before


# --- what is timed


@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        (ResNet18(1000), 11_689_512),  # as published
        (ResNet50(1000), 25_557_032),  # as published
        (ViTSmall(1000), 22_050_664 - 2 * 384),  # as published, less the class token and its position
        (FourConvolutions(43), 246_379),
    ],
)
def test_networks_have_the_size_of_their_name(module: torch.nn.Module, parameters: int):
    assert sum(one.numel() for one in module.parameters()) == parameters


def test_the_bare_step_is_the_gradient_of_the_same_loss_at_the_input(case: Case):
    with frozen(case.problem.target.module):
        images, truth = case.shown
        shown = images.clone().requires_grad_()
        loss = case.problem.objective.loss(case.problem.target(shown), truth).sum()
        (expected,) = torch.autograd.grad(loss, shown)
        assert torch.equal(case.bare(), expected)
        assert len(images) == 16
        assert expected.abs().sum() > 0


def test_the_step_is_the_attack_own(case: Case):
    with frozen(case.problem.target.module):
        step = case.stepper()
        first, second = step(), step()
        theta = case.problem.init(restart=0)
        landscape = case.problem.landscape(0, torch.zeros(1, dtype=torch.bool))
        moved, _, _ = case.problem.optimiser.step(theta, landscape, case.problem.optimiser.init(theta))
    assert torch.equal(first, moved)
    assert not torch.equal(first, second)


def test_phases_are_shares_of_the_whole(case: Case):
    with frozen(case.problem.target.module):
        shares = phases(case, repeats=3, clock=cpu_clock)
    assert tuple(shares) == PHASES
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["target"] > shares["update"] > 0


def test_a_target_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"'cnn-65'; there are cnn-64, resnet18-224"):
        size_of("cnn-65")


# --- peers


def test_absent_peers_are_named_with_the_reason(case: Case):
    images, labels = case.shown
    running, absent = found(Victim(case.problem.target.module, images, labels, 43))
    assert set(running) | set(absent) == set(PEERS)
    assert not set(running) & set(absent)
    assert "Kornia AugmentationSequential loop" in running
    assert all(why for why in absent.values())


def test_a_peer_is_timed_by_what_one_more_iteration_costs():
    ticks = iter(range(10**6))
    spent = {"now": 0.0}

    def clock() -> float:
        next(ticks)
        return spent["now"]

    def run(iterations: int) -> None:
        spent["now"] += 7.0 + 2.0 * iterations  # seven once, two per iteration

    def bare() -> None:
        spent["now"] += 4.0

    assert steps({"peer": run}, bare, repeats=3, clock=clock) == {"peer": pytest.approx(0.5)}


def test_the_kornia_loop_moves_only_the_patch(case: Case):
    images, labels = case.shown
    patch = kornia_loop(Victim(case.problem.target.module, images, labels, 43))(1)
    assert isinstance(patch, torch.Tensor)
    third = images.shape[-1] // 3
    assert (patch[..., :third, :] == 0.5).all()
    assert (patch[..., third : 2 * third, third : 2 * third] != 0.5).any()


def test_foolbox_runs_its_own_attack(case: Case):
    pytest.importorskip("foolbox", reason="foolbox is a peer that is compared with where it is installed")
    images, labels = case.shown
    _, clipped, _ = foolbox_pgd(Victim(case.problem.target.module, images, labels, 43))(1)
    assert (clipped[0] - images).abs().max() <= RADIUS + 1e-6


# --- what is said


def _found(ratios: dict[str, float]) -> dict[str, object]:
    wall = {"ratio": 1.2}
    return {
        "steps": [
            {
                "target": size.name,
                "ratio": ratios[size.name],
                "max_ratio": size.most,
                "twin_ratio": 1.4,
                "bare_ms": 50.0,
                "step_ms": 60.0,
                "wall": wall,
                "peak_mb": 84.0,
                "peak_ratio": 1.1 if size.name == "cnn-64" else None,
            }
            for size in SIZES
            if size.name in ratios
        ],
        "peers": [{"peer": "foolbox LinfPGD", "target": "cnn-64", "ratio": 1.27}],
        "absent": {"torchattacks PGD": "torchattacks is not installed"},
    }


def test_the_answer_is_one_sentence():
    assert headline(_found({"cnn-64": 1.2})).endswith("costs 1.20 times the bare model's; the limit is 1.25.")
    two = headline(_found({"cnn-64": 1.2, "signs-det-320": 1.3}))
    assert two.endswith("costs 1.20 to 1.30 times the bare model's; 1 of 2 targets keep their limit.")


def test_tables_and_bars_say_what_was_found():
    said = _found({"cnn-64": 1.2, "signs-det-320": 1.3})
    assert rows(said)[0] == ("cnn-64", "50", "60", "1.20", "1.25", "1.40", "1.20", "84 MB (× 1.10)")
    assert rows(said)[1][-1] == "–"
    assert peer_rows(said) == [
        ("foolbox LinfPGD", "1.27 (cnn-64)"),
        ("torchattacks PGD", "not run: torchattacks is not installed"),
    ]
    bars = [("physadv · cnn-64", 1.2, 1.25), ("foolbox LinfPGD", 1.27, None), ("physadv · signs-det-320", 1.3, 1.1)]
    assert bars_of(said) == bars
    assert ratios_png(said).startswith(b"\x89PNG")


# --- the whole, and the ratio that must not rot


@pytest.mark.slow
def test_the_command_writes_what_it_says(tmp_path: Path):
    options = BenchOptions(out=tmp_path / "out", quick=True, repeats=3)
    with Console() as console:
        metrics = run_bench(options, command="physadv bench --quick", console=console)
    said = json.loads((tmp_path / "out" / "bench.json").read_text())
    keys = {"target", "ratio", "max_ratio", "twin_ratio", "bare_ms", "step_ms", "shares", "peak_mb", "busy"}
    assert said["steps"][0].keys() >= keys
    assert said["steps"][0]["target"] == "cnn-64"
    assert said["machine"]["world"] == {"name": "drive-by", "hash": "fb351df86b67"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert metrics["headline"].replace("'", "&#39;") in page
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


RATIO = """
from physadv.bench.case import case_of, size_of
from physadv.bench.clock import cpu_clock, interleaved, threads
from physadv.targets.base import frozen

case = case_of(size_of("cnn-64"), seed=0, device="cpu")
with frozen(case.problem.target.module), threads(1):
    spent = interleaved({"bare": case.bare, "step": case.stepper()}, repeats=15, clock=cpu_clock)
print(min(spent["step"]) / min(spent["bare"]))
"""


def test_a_step_stays_close_to_the_bare_model():
    """In a process without the tests' type checks; the least of either, which a busy machine disturbs least."""
    best = float("inf")
    for _ in range(TRIES):
        done = subprocess.run([sys.executable, "-c", RATIO], capture_output=True, text=True, check=True, cwd=ROOT)
        best = min(best, float(done.stdout.split()[-1]))
        if best <= GENEROUS:
            break
    assert best <= GENEROUS, f"a step costs {best:.2f} times the bare model's"


def test_a_measurement_of_one_size_names_it():
    size = size_of("cnn-64")
    lines: list[str] = []
    said = measure(Bench(sizes=(size,), repeats=3, compare=False), lines.append)
    assert [step["target"] for step in said["steps"]] == ["cnn-64"]
    assert said["peers"] == []
    assert len(lines) == 1
    assert lines[0].startswith("cnn-64: bare ")
