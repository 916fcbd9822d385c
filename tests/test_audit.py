"""The audit tells a robust target from a weak attack: planted faults are flagged, an honest target is not."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import physadv.cli
from physadv.attacks import Settings, attack, attack_each
from physadv.audit import ADVICE, Audit, Case, Effort, audit
from physadv.audit.probes import is_softmax, slope, with_logits
from physadv.audit.suite import NAIVE, SEARCH, Tally, suite
from physadv.defences import defend, load_defence
from physadv.errors import UserError
from physadv.files import read_json
from physadv.framed import framed
from physadv.heldout import HeldOut
from physadv.objectives import Margin, parse_goal
from physadv.objectives.classification import CrossEntropy
from physadv.optimisers import make_optimiser
from physadv.scenes import Scenes, load_scenes
from physadv.targets import Classifier, load_target
from physadv.targets.base import frozen
from physadv.threats import load_threat
from physadv.transforms.stages import antithetic, uniforms
from physadv.transforms.world import DIGITAL, load_world

QUICK = Effort(steps=12, restarts=1, queries=24, compared=6, batch=6)
LEAST = replace(QUICK, steps=4, queries=8)


@cache
def victim() -> Classifier:
    return load_target("builtin:gtsrb")


@cache
def photographs() -> Scenes:
    """Six clean views of staged signs, as the victim sees them."""
    scenes = load_scenes(
        "staged:all", classes=["stop", "yield", "no-entry", "speed-limit-50", "priority-road", "ahead-only"]
    )
    return framed(HeldOut(victim(), scenes, load_world("drive-by"), 1, 5))


def case(naive: Classifier, deployed: Classifier, *, plain: Classifier | None = None, epsilon: str = "8/255") -> Case:
    scenes = photographs()
    threat, boundless = (load_threat(f"linf:{size}", scenes, seed=0) for size in (epsilon, "1"))
    return Case(plain or victim(), naive, deployed, scenes, threat, boundless, DIGITAL, "untargeted", 0)


def behind(name: str, *, epsilon: str = "8/255") -> Case:
    defence = load_defence(name)
    naive, deployed = (defend(victim(), defence, adaptive=adaptive, seed=0) for adaptive in (False, True))
    return case(naive, deployed, epsilon=epsilon)


@cache
def audited(name: str) -> Audit:
    effort = LEAST if "pad" in name else QUICK
    return audit(case(victim(), victim()) if name == "none" else behind(name), effort=effort)


def raised(found: Audit) -> set[str]:
    return {flag.name for flag in found.flags if flag.raised}


# --- photographs as the target sees them


def test_a_framed_scene_is_seen_pixel_for_pixel():
    scenes = photographs()
    seen = torch.cat(list(HeldOut(victim(), scenes, DIGITAL, 1, 0).photographs(None)))
    assert torch.allclose(seen, scenes.images, atol=1e-5)
    assert torch.allclose(scenes.images * 255, (scenes.images * 255).round(), atol=1e-4)


def test_a_ball_round_a_framed_scene_changes_that_very_input():
    scenes = photographs()
    threat = load_threat("linf:8/255", scenes, seed=0)
    worn = threat.artwork(threat.init(scenes, generator=torch.Generator().manual_seed(0)))
    seen = torch.cat(list(HeldOut(victim(), scenes, DIGITAL, 1, 0).photographs(worn)))
    assert torch.allclose(seen, worn.rgb, atol=1e-5)


# --- flags


def test_an_undefended_target_raises_no_flag():
    found = audited("none")
    assert raised(found) == set(), [(flag.name, flag.seen) for flag in found.flags if flag.raised]
    assert "no sign that the attacks failed" in found.metrics["verdict"]


@pytest.mark.parametrize("name", ["jpeg:75", "bits:4"])
def test_a_missing_gradient_is_flagged_and_the_adaptive_attack_gets_through(name: str):
    found = audited(name)
    assert {"gradient", "naive"} <= raised(found)
    robust = found.metrics["robust_accuracy"]
    assert robust["adaptive"]["rate"] + 0.4 < robust["naive"]["rate"]
    assert found.metrics["flags"]["gradient"]["advice"] == ADVICE["gradient"]


def test_randomness_is_flagged():
    assert "randomised" in raised(audited("resize-pad:0.85"))


def test_a_gradient_that_lies_is_flagged():
    class Liar(nn.Module):
        """The victim's answers with the gradient of something else."""

        def forward(self, images: Tensor) -> Tensor:
            logits = victim().module(images)
            return logits.detach() + (images - images.detach()).sum((1, 2, 3))[:, None] * torch.randn(43)

    lying = replace(victim(), module=Liar())
    honest = slope(case(victim(), victim()), torch.arange(6))
    assert honest.zero == 0
    assert honest.agreement is not None
    assert honest.agreement > 0.3
    found = slope(case(lying, lying), torch.arange(6))
    assert found.agreement is not None
    assert found.agreement < 0.1


def test_probabilities_are_flagged_and_their_logarithm_attacked():
    class Probable(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (5 * victim().module(images)).softmax(1)

    given = replace(victim(), module=Probable())
    images = photographs().images
    assert is_softmax(given, images)
    assert not is_softmax(victim(), images)
    plain = with_logits(given, images)
    assert torch.equal(plain(images).argmax(1), given(images).argmax(1))
    found = audit(case(plain, plain, plain=plain), effort=replace(QUICK, queries=8), softmax=True)
    assert "softmax" in raised(found)
    assert found.metrics["robust_accuracy"]["adaptive"]["rate"] < 0.5


def test_a_target_that_gives_scores_only_is_searched_without_gradients():
    scores = replace(victim(), differentiable=False)
    found = audit(case(scores, scores, plain=scores), effort=QUICK)
    assert [one.trial.name for one in found.tally.tried] == [SEARCH]
    assert found.tally.tried[0].found.photographs >= QUICK.queries


def test_the_gradient_of_scores_cannot_be_asked_for():
    scores = replace(victim(), differentiable=False)
    threat = load_threat("linf:8/255", photographs(), seed=0)
    with pytest.raises(UserError, match="random-search"):
        attack(scores, photographs(), threat, world=DIGITAL, settings=Settings(steps=1), seed=0)


# --- the suite


def test_robust_risk_is_the_worst_case_of_every_scene():
    found = audited("jpeg:75")
    by_hand = found.tally.clean.broken.clone()
    for one in found.tally.tried:
        if not one.trial.boundless and one.trial.kind != "validity":
            by_hand[one.rows[one.answers.broken]] = True
    assert found.metrics["risk"]["robust"]["k"] == int(by_hand.sum())
    assert found.metrics["robust_accuracy"]["adaptive"]["k"] == len(photographs()) - int(by_hand.sum())


def test_survivors_are_attacked_again_and_nobody_else():
    found = audited("jpeg:75")
    tally = Tally(found.tally.clean)
    for one in found.tally.tried:
        standing = ~tally.broken("naive", "adaptive")
        if one.trial.survivors:
            assert one.rows.tolist() == standing.nonzero()[:, 0].tolist()
        tally.tried.append(one)


def test_pictures_stay_within_the_budget():
    base = photographs().images
    for one in audited("jpeg:75").tally.tried:
        if not one.trial.boundless:
            assert (one.found.artwork.rgb - base[one.rows]).abs().max() <= 8 / 255 + 1e-4


def test_the_suite_draws_more_where_more_is_random():
    views = {trial.name: trial.settings.views for trial in suite(behind("resize-pad:0.85"), QUICK)}
    assert views[NAIVE] == 1
    assert views["adaptive pgd, margin"] > 1
    still = {trial.settings.views for trial in suite(behind("jpeg:75"), QUICK) if "more" not in trial.name}
    assert still == {1}


def test_the_same_audit_twice():
    first, second = audited("resize-pad:0.85"), audit(behind("resize-pad:0.85"), effort=LEAST)
    for one, other in zip(first.tally.tried, second.tally.tried, strict=True):
        assert torch.equal(one.found.artwork.rgb, other.found.artwork.rgb), one.trial.name
        assert torch.equal(one.answers.margin, other.answers.margin)


# --- abstention


def test_to_abstain_is_as_good_as_to_be_right():
    goal = parse_goal("untargeted", ("a", "b", "abstain"))
    logits, truth = torch.tensor([[1.0, 0, 2], [1, 3, 2], [4, 3, 2]]), torch.tensor([0, 0, 0])
    assert Margin(goal).success(logits, truth).tolist() == [False, True, False]
    assert Margin(goal).loss(logits, truth).tolist() == [2.0, -1.0, 1.0]
    right = logits.softmax(1)[:, [0, 2]].sum(1).log()
    torch.testing.assert_close(CrossEntropy(goal).loss(logits, truth), right)


def test_a_targeted_attack_has_to_beat_the_abstention_too():
    goal = parse_goal("class:b", ("a", "b", "abstain"))
    assert Margin(goal).success(torch.tensor([[1.0, 3, 4], [1, 3, 2]]), torch.tensor([0, 0])).tolist() == [False, True]


# --- what the searches share


def test_early_exit_saves_photographs_and_loses_no_success():
    threat = load_threat("linf:8/255", photographs(), seed=0)
    settings = Settings(steps=20, batch=6, views=1, check_every=2, held_out=1)
    found = [
        attack_each(victim(), photographs(), threat, world=DIGITAL, settings=replace(settings, early_stop=stop), seed=0)
        for stop in (False, True)
    ]
    held_out = HeldOut(victim(), photographs(), DIGITAL, 1, 0)
    with frozen(victim().module):
        full, early = (logits.argmax(1) != held_out.truth for logits in held_out.answers(*(f.artwork for f in found)))
    assert found[1].photographs < 0.75 * found[0].photographs
    assert int(early.sum()) >= int(full.sum()) - 1


def test_common_views_are_the_same_in_every_step_and_antithetic_ones_mirror_each_other():
    u, first = antithetic(range(4), 5, seed=3), uniforms([0, 1], 5, seed=3)
    assert torch.equal(u[::2], first)
    torch.testing.assert_close(u[1::2], 1 - first)
    drive = load_world("drive-by")
    views = drive.draw([4, 5], seed=0, paired=True)
    assert torch.allclose(views.place().sum(0), torch.ones(2))


@pytest.mark.parametrize("optimiser", ["pgd", "random-search", "spsa"])
@pytest.mark.parametrize("views", [{"common": True}, {"antithetic": True}, {}], ids=str)
def test_every_optimiser_takes_every_kind_of_views(optimiser: str, views: dict[str, bool]):
    scenes = load_scenes("staged:stop")
    threat = load_threat("stickers", scenes, seed=0, resolution_px=12)
    settings = Settings(steps=3, batch=2, views=2, held_out=4, optimiser=optimiser, **views)
    found = attack(victim(), scenes, threat, world=load_world("drive-by"), settings=settings, seed=0)
    assert torch.isfinite(found.artwork.rgb).all()
    least = 3 * 4 + 4
    assert found.photographs >= (least if make_optimiser(optimiser).gradients else least + 3)


def test_odd_views_cannot_come_in_pairs():
    with pytest.raises(UserError, match="even"):
        Settings(antithetic=True, views=3)


# --- the command


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["physadv", *arguments])
        with pytest.raises(SystemExit) as stopped:
            physadv.cli.main()
        return int(stopped.value.code or 0), capsys.readouterr().out

    return run


SMALL = ("--steps", "4", "--restarts", "1", "--queries", "8", "--compared", "8", "--limit", "8")


def test_the_command_writes_audit_and_report(run: Callable[..., tuple[int, str]], tmp_path: Path):
    code, said = run("audit", "--classes", "stop", "--defence", "jpeg:75", *SMALL, "--out", str(tmp_path / "a"))
    assert code == 0
    assert "gradient" in said
    metrics = read_json(tmp_path / "a" / "audit.json")
    assert metrics["flags"]["gradient"]["raised"] is True
    assert set(metrics["risk"]) == {"clean", "views", "robust"}
    assert metrics["run"]["scenes"]["n"] == 8
    assert (tmp_path / "a" / "report.html").is_file()


def test_printed_threats_are_audited_in_the_world(run: Callable[..., tuple[int, str]], tmp_path: Path):
    code, _ = run("audit", "--classes", "stop", "--threat", "patch:10%", *SMALL, "--out", str(tmp_path / "a"))
    assert code == 0
    assert read_json(tmp_path / "a" / "audit.json")["run"]["world"]["name"] == "drive-by"


def test_detectors_learn_from_staged_signs_where_there_is_nothing_else(
    run: Callable[..., tuple[int, str]], tmp_path: Path
):
    code, _ = run("audit", "--classes", "stop", "--defence", "softmax", *SMALL, "--out", str(tmp_path / "a"))
    assert code == 0
    metrics = read_json(tmp_path / "a" / "audit.json")
    assert metrics["flags"]["confident"]["raised"] is not None or metrics["flags"]["confident"]["seen"]
    assert metrics["abstains_on_clean"] < 0.5


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (("--defence", "jpg:75"), "jpeg"),
        (("--fit", "staged:all"), "--fit"),
        (("--defence", "jpeg:75", "--fit", "staged:all"), "--fit"),
        (("--threat", "linf:2"), "linf"),
        (("--steps", "1"), "--steps"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    run, tmp_path: Path, options: tuple[str, ...], remedy: str, capsys
):
    monkey = ("audit", "--classes", "stop", "--limit", "8", *options, "--out", str(tmp_path / "a"))
    code, _ = run(*monkey)
    assert code == 2
    assert not (tmp_path / "a").exists()


def test_a_defence_goes_in_front_of_any_command(run: Callable[..., tuple[int, str]], tmp_path: Path):
    code, _ = run("evaluate", "--defence", "median:3", "--judge-views", "8", "--out", str(tmp_path / "a"))
    assert code == 0
    name = read_json(tmp_path / "a" / "metrics.json")["run"]["target"]["name"]
    assert name == "builtin:gtsrb behind median:3"
