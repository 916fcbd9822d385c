"""L and E: what the adversary minimises, and over what."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physadv.errors import UserError
from physadv.objectives.classification import CrossEntropy, Margin, make_objective, margin
from physadv.objectives.expectation import CVaR, Mean, parse_expectation
from physadv.objectives.goals import Goal, parse_goal
from physadv.objectives.printability import non_printability, printable_palette, total_variation
from physadv.threats.sets import Printable

CLASSES = ("stop", "yield", "no-entry")
LOGITS = torch.tensor([[3.0, 1.0, 0.5], [0.0, 2.0, 5.0], [1.0, 1.0, 0.0]])
TRUTH = torch.tensor([0, 1, 1])


def test_margin_has_the_values_computed_by_hand():
    assert margin(LOGITS, TRUTH, Goal("untargeted")).tolist() == [2.0, -3.0, 0.0]
    assert margin(LOGITS, TRUTH, Goal("class:no-entry", 2)).tolist() == [2.5, -3.0, 1.0]
    assert Margin(Goal("untargeted"), 1.0).loss(LOGITS, TRUTH).tolist() == [2.0, -1.0, 0.0]


def test_a_view_won_by_kappa_pulls_no_more():
    logits = LOGITS.clone().requires_grad_()
    Margin(Goal("untargeted"), 1.0).loss(logits, TRUTH).sum().backward()
    assert logits.grad.abs().sum(1).tolist() == [2.0, 0.0, 2.0]


@pytest.mark.parametrize("goal", [Goal("untargeted"), Goal("class:yield", 1)])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_sign_of_the_margin_agrees_with_success_and_with_the_answer(goal: Goal, seed: int):
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(seed))
    truth = torch.randint(3, (50,), generator=torch.Generator().manual_seed(seed + 1))
    answer = logits.argmax(1)
    expected = answer != truth if goal.target is None else answer == goal.target
    for objective in (Margin(goal, 5.0), CrossEntropy(goal)):
        assert torch.equal(objective.success(logits, truth), expected)
    assert torch.equal(Margin(goal, 5.0).loss(logits, truth) < 0, expected)


def test_cross_entropy_falls_towards_the_goal():
    log_p = LOGITS.log_softmax(1)
    torch.testing.assert_close(CrossEntropy(Goal("untargeted")).loss(LOGITS, TRUTH), log_p[torch.arange(3), TRUTH])
    torch.testing.assert_close(CrossEntropy(Goal("class:no-entry", 2)).loss(LOGITS, TRUTH), -log_p[:, 2])


@pytest.mark.parametrize("name", ["margin", "cross-entropy"])
def test_nan_from_the_target_is_refused(name: str):
    objective = make_objective(name, Goal("untargeted"))
    broken = LOGITS.clone()
    broken[1, 2] = math.nan
    for ask in (objective.loss, objective.success):
        with pytest.raises(UserError, match="NaN"):
            ask(broken, TRUTH)


def test_goals_are_parsed():
    assert parse_goal("untargeted", CLASSES) == Goal("untargeted", None)
    assert parse_goal("class:no-entry", CLASSES) == Goal("class:no-entry", 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hide", "needs a detector"),
        ("create:stop", "needs a detector"),
        ("relabel:stop", "needs a detector"),
        ("class:stpo", "did you mean 'stop'"),
        ("class:", "knows no class"),
        ("wrong", "untargeted or class:NAME"),
    ],
)
def test_other_goals_are_refused(text: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        parse_goal(text, CLASSES)


def test_other_objectives_are_refused():
    with pytest.raises(UserError, match="did you mean 'margin'"):
        make_objective("margn", Goal("untargeted"))
    with pytest.raises(UserError, match="kappa"):
        Margin(Goal("untargeted"), -1.0)


@pytest.mark.parametrize(("share", "views"), [(0.5, 8), (0.5, 7), (0.1, 30), (1.0, 5), (0.01, 3)])
def test_cvar_is_the_mean_of_the_worst_views(share: float, views: int):
    losses = torch.randn(4, views, generator=torch.Generator().manual_seed(0))
    count = next(k for k in range(1, views + 1) if k >= share * views - 1e-6)
    reference = losses.sort(dim=1, descending=True).values[:, :count].mean(1)
    torch.testing.assert_close(CVaR(share)(losses), reference)
    torch.testing.assert_close(CVaR(share)(losses[0]), reference[0])


def test_expectations_are_parsed():
    assert parse_expectation("mean") == Mean()
    assert parse_expectation("cvar:0.5") == CVaR(0.5)
    assert Mean()(torch.tensor([[1.0, 2.0]])).tolist() == [1.5]


@pytest.mark.parametrize("text", ["cvar", "cvar:0", "cvar:1.5", "median"])
def test_other_expectations_are_refused(text: str):
    with pytest.raises(UserError, match=r"cvar:0\.5"):
        parse_expectation(text)


def test_total_variation_counts_steps_between_covered_pixels_only():
    rgb = torch.zeros(1, 3, 2, 4)
    rgb[..., 2:] = 1.0
    whole, left = torch.ones(1, 1, 2, 4), torch.tensor([1.0, 1, 0, 0]).expand(1, 1, 2, 4)
    assert total_variation(rgb, whole).item() == pytest.approx(2 / 8)
    assert total_variation(rgb, left).item() == 0


def test_non_printability_is_the_distance_to_the_nearest_colour():
    palette = printable_palette()
    rgb = palette.T.reshape(1, 3, 1, 31)
    alpha = torch.ones(1, 1, 1, 31)
    assert non_printability(rgb, alpha, palette).item() == pytest.approx(0, abs=1e-5)
    white = non_printability(torch.ones(1, 3, 2, 2), torch.ones(1, 1, 2, 2), palette).item()
    assert white == pytest.approx(33 / 255 * 3**0.5, abs=1e-5)


def test_the_palette_is_distinct_and_inside_the_gamut():
    palette = printable_palette()
    assert palette.shape == (31, 3)
    assert (torch.cdist(palette, palette) + torch.eye(31)).min() > 0.05
    torch.testing.assert_close(Printable().project(palette[:, :, None, None])[:, :, 0, 0], palette)
