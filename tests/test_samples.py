"""Sample complexity: the closed form against simulation, impossibility, learning curves and what they foretell."""

import json
from dataclasses import replace
from itertools import product
from math import exp, log, pi, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from physadv.config import SamplesOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.report.samples import data_remarks
from physadv.runs import run_samples
from physadv.samples import curves
from physadv.samples.curves import Point, Study, epochs_for, judged, measure, part
from physadv.samples.demonstration import Vanishing
from physadv.samples.extrapolation import Curves, answer, interval, posterior, replicated, unlabelled
from physadv.samples.gaussian import Gaussian, lower_bound
from physadv.samples.prognosis import backtest
from physadv.scenes import Scenes, load_scenes
from physadv.targets.base import Classifier, Frame, weights_hash
from physadv.targets.models import build
from physadv.training import Recipe, perturbed, train
from physadv.transforms.world import DIGITAL

# --- the Gaussian model

# 30 cells (d, ε, n), with the noise at which they are neither trivial nor hopeless: σ = c·d^¼.
CELLS = [
    (d, epsilon, n, noise)
    for d, (epsilon, noise) in product((16, 64, 256, 1024, 3072), ((0.0, 0.9), (0.25, 0.7), (0.5, 0.6)))
    for n in (3, 40)
]


def crossing(model: Gaussian, epsilon: float, error: float, *, seed: int) -> float:
    """The (real) n at which the simulated learner's mean error falls to `error`; the same noise at every n."""
    low, high = 0.01, 1e4
    trainings = max(80, min(2000, 150_000 // model.d))
    for _ in range(14):
        middle = sqrt(low * high)
        found = model.simulate(middle, epsilon, trainings=trainings, seed=seed).error
        low, high = (middle, high) if found > error else (low, middle)
    return sqrt(low * high)


@pytest.mark.parametrize(("d", "epsilon", "n", "noise"), CELLS)
def test_closed_form_sample_sizes_are_those_of_simulation(d: int, epsilon: float, n: int, noise: float):
    assert len(CELLS) == 30
    model = Gaussian(d, noise * d**0.25 * sqrt(n) ** 0.5)
    found = crossing(model, epsilon, model.error(n, epsilon), seed=d + n)
    assert n / 1.2 <= found <= 1.2 * n


def test_the_formula_is_the_one_that_is_documented():
    """The leading term by itself (ANCHORS: .793 at d = 3072, n = 5, ε = .5) and the spread that the exact mean adds."""
    d, n, epsilon = 3072, 5, 0.5
    sigma = d**0.25
    s = sigma / sqrt(n)
    phi = torch.special.ndtr
    m = s * sqrt(2 / pi) * exp(-0.5 / s**2) + 1 - 2 * float(phi(torch.tensor(-1 / s)))
    leading = float(phi(torch.tensor(-sqrt(d) * (1 - epsilon * m) / (sigma * sqrt(1 + s * s)))))
    assert Gaussian(d, sigma).error(n, epsilon) == pytest.approx(leading, abs=0.003)
    few = Gaussian(256, 0.3 * 4)
    simulated = few.simulate(1, 0.5, trainings=4000, seed=0)
    assert few.error(1, 0.5) == pytest.approx(simulated.error, rel=0.15), "and not 0.0009, the leading term"


def test_the_error_given_weights_is_that_of_drawn_data():
    """Train on drawn samples, move drawn test samples by −yε·sign(w), count."""
    model, generator = Gaussian(12, 2.0), torch.Generator().manual_seed(0)
    x, y = model.draw(6, generator=generator)
    w = (y[:, None] * x).mean(0)
    tests, truth = model.draw(100_000, generator=generator)
    for epsilon in (0.0, 0.3):
        wrong = ((tests - truth[:, None] * epsilon * w.sign()) @ w).sign() != truth
        exact = float(model.error_of(w[None].double(), epsilon))
        assert wrong.float().mean().item() == pytest.approx(exact, abs=4 * sqrt(0.25 / 100_000))


def test_the_weights_of_the_simulation_are_the_mean_of_samples():
    model, generator = Gaussian(3, 2.0), torch.Generator().manual_seed(1)
    errors = []
    for _ in range(3000):
        x, y = model.draw(4, generator=generator)
        errors.append(model.error_of((y[:, None] * x).mean(0)[None], 0.2))
    drawn = torch.cat(errors)
    simulated = model.simulate(4, 0.2, trainings=3000, seed=2)
    spread = sqrt(2) * drawn.std().item() / sqrt(3000)
    assert simulated.error == pytest.approx(drawn.mean().item(), abs=4 * spread)


@pytest.mark.parametrize(("d", "epsilon"), [(64, 0.5), (256, 0.75), (3072, 0.9), (3072, 1.0)])
def test_impossible_is_never_contradicted(d: int, epsilon: float):
    """At a goal just below the ceiling even 10⁹ samples miss it; just above, the number given is enough."""
    model = Gaussian(d, 0.8 * sqrt(d) * max(1 - epsilon, 0.1))
    ceiling = model.ceiling(epsilon)
    huge = model.simulate(1e9, epsilon, trainings=20, seed=0).error
    assert huge == pytest.approx(ceiling, rel=1e-3)
    if ceiling < 0.49:
        assert model.needed(1.02 * ceiling, epsilon) is not None
    assert model.needed(0.98 * ceiling, epsilon) is None
    assert huge > 0.98 * ceiling


def test_what_is_needed_is_the_least():
    for epsilon, goal in product((0.0, 0.2, 0.5), (0.01, 0.1, 0.4)):
        model = Gaussian(256, 2.5)
        n = model.needed(goal, epsilon)
        assert n is not None
        assert model.error(n, epsilon) <= goal
        assert n == 1 or model.error(n - 1, epsilon) > goal
    assert Gaussian(3072, 1.0).needed(0.01, 0.0) == 1, "Schmidt: one sample is enough without an adversary"


def test_the_bound_is_a_scaling_with_its_conditions():
    said = lower_bound(3072, 3072**0.25, 0.2)
    assert said["scaling"] == pytest.approx(0.04 * sqrt(3072) / log(3072))
    assert said["sigma_over_d_quarter"] == pytest.approx(1)
    assert said["epsilon_within_a_quarter"]
    assert not lower_bound(3072, 7.0, 0.3)["epsilon_within_a_quarter"]
    assert "near 1/2" in said["conditions"]


def test_accurate_and_robust_nowhere():
    shown = Vanishing(3072)
    assert shown.epsilon == pytest.approx(0.054, abs=2e-4)
    assert (shown.error(0.0), shown.error(shown.epsilon)) == (pytest.approx(0.00135, abs=1e-5), pytest.approx(0.5))
    found = shown.simulate(6000, seed=0)
    low, high = found["standard"]["ci95"]
    assert low < 0.00135 < high
    assert found["robust"]["rate"] == pytest.approx(0.5, abs=0.03)
    assert Vanishing(150_528).epsilon < 0.008
    assert Vanishing(150_528).error(0.0) == pytest.approx(shown.error(0.0))


@pytest.mark.parametrize(
    "wrong", [{"d": 1}, {"sigma": 0.0}, {"goal_error": 0.6}, {"epsilon": "-1"}, {"epsilon": "many"}, {"verify": True}]
)
def test_a_model_that_cannot_be_is_refused(tmp_path: Path, wrong: dict):
    with pytest.raises(UserError):
        run(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


# --- extrapolation


def law(n: np.ndarray, *, a: float = 0.1, c: float = 0.5, top: float = 0.5) -> np.ndarray:
    return a + (top - a) * (n / 2000) ** -c


def synthetic(seed: int, *, a: float, c: float, noise: float = 0.015) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    n = np.tile([500.0, 800.0, 1250.0, 2000.0], 3) * random.uniform(0.97, 1.03, 12)
    return n, law(n, a=a, c=c) + noise * random.standard_normal(12)


def test_intervals_cover_what_was_not_measured():
    """90 % intervals at four times the largest size, for laws drawn at random; sharper than the whole range."""
    random, inside, widths = np.random.default_rng(0), 0, []
    for trial in range(60):
        a, c = random.uniform(0, 0.3), random.uniform(0.2, 1.2)
        n, error = synthetic(trial, a=a, c=c)
        drawn = posterior(n, error, largest=2000, draws=400, seed=trial).run(8000, seed=trial)
        low, high = np.quantile(drawn, (0.05, 0.95))
        truth = law(np.array([8000.0]), a=a, c=c)[0] + 0.015 * random.standard_normal()
        inside, widths = inside + (low <= truth <= high), [*widths, high - low]
    assert inside >= 50
    assert np.mean(widths) < 0.2


def test_an_interval_too_narrow_would_be_noticed():
    """Noise that the fit is not told of must widen the interval."""
    widths = []
    for noise in (0.002, 0.03):
        n, error = synthetic(1, a=0.1, c=0.5, noise=noise)
        drawn = posterior(n, error, largest=2000, draws=1000, seed=0).run(8000, seed=0)
        widths.append(np.subtract(*np.quantile(drawn, (0.95, 0.05))))
    assert widths[1] > 2 * widths[0]


def test_the_answer_knows_what_it_cannot_say():
    ones = np.ones(100)
    known = Curves(1000.0, 0.1 * ones, 0.2 * ones, 0.5 * ones, 0 * ones, 0.01 * ones)
    assert known.error(1000.0) == pytest.approx(0.3 * ones)
    assert known.needed(0.2) == pytest.approx(4000 * ones), "0.1 + 0.2 · (n/1000)^−½ = 0.2"
    said = answer(known, goal_accuracy=0.8, have=1000)
    assert (said["verdict"], said["signs"]["median"]) == ("estimate", pytest.approx(4000))
    assert answer(known, goal_accuracy=0.8, have=5000)["verdict"] == "reached"
    said = answer(known, goal_accuracy=0.95, have=1000)
    assert (said["verdict"], said["reachable"], said["signs"]["median"]) == ("not reachable", 0.0, None)
    torn = Curves(1000.0, np.linspace(0, 0.3, 100), 0.2 * ones, 0.5 * ones, 0 * ones, 0.01 * ones)
    said = answer(torn, goal_accuracy=0.8, have=1000)
    assert said["verdict"] == "uncertain"
    assert said["signs"]["ci90"][1] is None
    assert interval(np.array([1.0, np.inf, np.inf]))["median"] is None


def test_replicates_add_their_own_spread():
    n, error = synthetic(0, a=0.1, c=0.5, noise=0.01)
    still = replicated(lambda random: (n, error), largest=2000, seed=0)
    moved = replicated(lambda random: (n, error + 0.05 * random.standard_normal()), largest=2000, seed=0)
    assert moved.error(8000).std() > 1.3 * still.error(8000).std()


def test_a_curve_that_bends_is_noticed(photographs: Scenes, others: Scenes):
    """Backtest: the largest size is foretold by the others, and a remark says so where that fails."""
    asked = study(photographs, others, shares=(0.1, 0.2, 0.4, 0.8), seeds=3)

    def points(rates: tuple[float, ...]) -> list[Point]:
        def point(seed: int, share: float, training: str) -> Point:
            right = round(len(others) * rates[asked.shares.index(share)]) + seed - 1
            k = tuple(int(row < right) for row in range(len(others)))
            return Point(seed, share, training, round(100 * share), round(100 * share), k, k, 1.0)

        return [point(*run) for run in asked.runs]

    steady, bent = points((0.2, 0.43, 0.6, 0.72)), points((0.25, 0.25, 0.25, 0.92))
    held = backtest(asked, steady)
    assert sum(held["robust"]["inside"]) >= 2
    assert not data_remarks({"backtest": held})
    missed = backtest(asked, bent)
    assert not any(missed["robust"]["inside"])
    assert "above its median" in data_remarks({"backtest": missed})[0]
    assert backtest(asked, [point for point in bent if point.share > 0.1]) == {}


def test_unlabelled_photographs_count_by_their_label_noise():
    assert unlabelled(1000, label_noise=0.0, classes=43) == 1000
    assert unlabelled(1000, label_noise=0.25, classes=2) == pytest.approx(4000)
    assert unlabelled(1000, label_noise=0.5, classes=2) == float("inf")


# --- fast adversarial training


def images_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, 3, 32, 32, generator=generator), torch.arange(8) % 3


def test_a_perturbation_is_within_its_ball_and_costs_the_network():
    images, labels = images_and_labels()
    module = build("tiny-cnn", classes=3, seed=0).train()
    before = weights_hash(module)
    moved = perturbed(module, images, labels, 0.05, seed=1)
    assert (moved - images).abs().max() <= 0.05 + 1e-6
    assert (moved.min() >= 0, moved.max() <= 1) == (True, True)
    assert weights_hash(module) == before, "running statistics too"
    assert all(parameter.grad is None for parameter in module.parameters())
    module.train()
    noise = images + 0.05 * (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) - 1)
    loss = nn.functional.cross_entropy
    assert loss(module(moved), labels) > loss(module(noise), labels) + 0.01
    assert not torch.equal(moved, perturbed(module, images, labels, 0.05, seed=2)), "the start is drawn"
    assert torch.equal(moved, perturbed(module, images, labels, 0.05, seed=1))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return load_scenes(f"imagefolder:{painted(tmp_path_factory.mktemp('train'), 12)}")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return load_scenes(f"imagefolder:{painted(tmp_path_factory.mktemp('test'), 4, seed=9)}")


def painted(folder: Path, each: int, *, seed: int = 0) -> Path:
    """Noisy pictures of three colours; every file is a sign of its own."""
    random = np.random.default_rng(seed)
    for name, colour in {"stop": (190, 20, 30), "yield": (30, 40, 190), "priority-road": (200, 180, 20)}.items():
        (folder / name).mkdir()
        for number in range(each):
            pixels = random.normal(0, 25, (24, 24, 3)) + np.array(colour) * random.uniform(0.6, 1.2)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{seed}-{number}.png")
    return folder


def test_no_perturbation_is_plain_training(photographs: Scenes):
    def trained(epsilon: float) -> str:
        recipe = Recipe(epochs=1, batch=12, epsilon=epsilon)
        how = {"world": DIGITAL, "context": 0.1, "recipe": recipe, "seed": 0, "report": lambda progress: None}
        return train("tiny-cnn", [photographs], **how).weights_hash

    assert trained(0.0) == trained(0.0) != trained(2 / 255)


# --- learning curves


def study(scenes: Scenes, judge: Scenes, **changes) -> Study:
    how = {"arch": "tiny-cnn", "shares": (0.25, 0.5, 0.75), "seeds": 1, "epsilon": 2 / 255, "seed": 0}
    return Study(scenes=scenes, judge=judge, **(how | changes))


def test_parts_are_whole_signs_of_every_class_and_nested(photographs: Scenes):
    groups = tuple(f"{label}-{row % 4}" for row, label in enumerate(photographs.labels.tolist()))
    tracks = replace(photographs, groups=groups)
    parts = [part(tracks, share, seed=3) for share in (0.01, 0.5, 1.0)]
    assert [len(set(one.groups)) for one in parts] == [3, 6, 12]
    assert [len(one) for one in parts] == [9, 18, 36], "a sign comes with all its photographs"
    assert set(parts[0].names) < set(parts[1].names) < set(parts[2].names)
    assert all(len(set(one.labels.tolist())) == 3 for one in parts)
    assert set(part(tracks, 0.5, seed=4).groups) != set(parts[1].groups)


def test_the_recipe_is_a_function_of_the_size():
    assert epochs_for(1600, "robust") == pytest.approx(2 * epochs_for(6400, "robust"), abs=1)
    assert epochs_for(10**9, "robust") == 1


def test_the_attack_is_judged_within_its_ball(others: Scenes):
    """A network that reads one pixel: exactly the photographs whose margin is within ε fall."""

    class Red(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(50.0))

        def forward(self, images):
            margin = self.scale * (images[:, 0].mean((1, 2)) - 0.4)
            return torch.stack([margin, 0 * margin, -margin], 1)

    target = Classifier.of(Red(), classes=("stop", "none", "yield"), frame=Frame(16, 0.1), name="red")
    two = others.take(
        torch.tensor([row for row, label in enumerate(others.labels) if others.classes[label] != "priority-road"])
    )
    clean, robust = judged(target, two, 1e-4, seed=0)
    assert torch.equal(clean, robust)
    clean, robust = judged(target, two, 0.9, seed=0)
    assert clean.any()
    assert not robust.any()


def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "EFFORT", {"standard": 1.0, "robust": 1.0})
    monkeypatch.setattr(curves, "ATTACK_STEPS", 2)


def test_an_interrupted_curve_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, photographs: Scenes, others: Scenes, tmp_path: Path
):
    tiny(monkeypatch)
    asked, path, trained = study(photographs, others), tmp_path / "curve.json", []
    real = curves.train

    def counted(*arguments, **options):
        trained.append(options["seed"])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(curves, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(asked, path, resume=False)
    assert len(json.loads(path.read_text())["points"]) == 2, "each point is on disk at once"
    before = json.loads(path.read_text())["points"]
    points = measure(asked, path, resume=True)
    assert len(trained) == 3 + 4
    assert [point.key for point in points] == asked.runs
    assert json.loads(path.read_text())["points"][:2] == before
    whole = measure(asked, tmp_path / "anew.json", resume=False)
    assert [(one.key, one.clean, one.robust) for one in whole] == [(one.key, one.clean, one.robust) for one in points]
    with pytest.raises(UserError, match="belongs to another"):
        measure(study(photographs, others, epsilon=0.01), path, resume=True)


def run(out: Path, **options) -> dict:
    with Console() as console:
        return run_samples(SamplesOptions(out=out, **options), command="physadv samples", console=console)


def test_the_theory_on_a_page(tmp_path: Path):
    metrics = run(tmp_path / "out", d=256, epsilon="0.75", goal_error=0.05)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "demonstration.png",
        "metrics.json",
        "report.html",
        "run.json",
        "samples.png",
    }
    asked = next(row for row in metrics["theory"]["rows"] if row["epsilon"] == 0.75)
    assert asked["impossible"]
    assert "impossible" in metrics["headline"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "impossible" in html
    assert "http" not in html, "self-contained"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["theory"]["d"] == 256


def test_learning_curves_on_a_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    tiny(monkeypatch)
    for name, each in (("train", 12), ("test", 4)):
        (tmp_path / name).mkdir()
        painted(tmp_path / name, each, seed=each)
    where = {"scenes": f"imagefolder:{tmp_path / 'train'}", "judge": f"imagefolder:{tmp_path / 'test'}"}
    metrics = run(tmp_path / "out", **where, sizes="1/4,18,3/4", seeds=1, verify=True)
    said = capsys.readouterr().err
    assert said.index("about") < said.index("1/6")
    data = metrics["data"]
    assert [point["photographs"] for point in data["curves"]["robust"]["measured"]] == [9, 18, 27]
    low, high = data["curves"]["robust"]["at_all"]["ci90"]
    assert 0 <= low <= data["curves"]["robust"]["at_all"]["median"] <= high <= 1
    assert len(data["verified"]["robust"]["runs"]) == 1
    html = (tmp_path / "out" / "report.html").read_text()
    assert "How many more" in html
    assert "http" not in html
    with pytest.raises(UserError, match="resume"):
        run(tmp_path / "out", **where)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"judge": None}, "--judge"),
        ({"sizes": "1/4,1/2"}, "three"),
        ({"sizes": "a,b,c"}, "--sizes"),
        ({"sizes": "1/4,1/2,1", "verify": True}, "--verify"),
        ({"d": 5}, "--scenes"),
        ({"arch": "vgg"}, "vgg"),
        ({"epsilon": "2"}, "range of colours"),
        ({"judge": "same"}, "trained on"),
        ({"scenes": "staged:stop"}, "staged"),
    ],
)
def test_curves_that_cannot_be_are_refused(tmp_path: Path, wrong: dict, said: str):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        painted(tmp_path / name, 4, seed=len(name))
    where = {"scenes": f"imagefolder:{tmp_path / 'train'}", "judge": f"imagefolder:{tmp_path / 'test'}"}
    if wrong.get("judge") == "same":
        wrong = {"judge": where["scenes"]}
    with pytest.raises(UserError, match=said):
        run(tmp_path / "out", **(where | wrong))
    assert not (tmp_path / "out").exists()
