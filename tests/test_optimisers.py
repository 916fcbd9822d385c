"""argmin: rules, gradients with and without a graph, random search; all in landscapes whose minimum is known."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from physadv.errors import UserError
from physadv.optimisers import make_optimiser
from physadv.optimisers.adam import Adam
from physadv.optimisers.base import Landscape, Optimiser, Rule
from physadv.optimisers.catalogue import OPTIMISERS
from physadv.optimisers.descent import Autograd, Descent
from physadv.optimisers.pgd import PGD
from physadv.optimisers.random_search import RandomSearch
from physadv.optimisers.spsa import NES, SPSA

RULES = [PGD(0.05), PGD(0.05, momentum=0.0, schedule="constant"), PGD(0.5, norm="l2"), Adam(0.05)]
WANTED = torch.tensor([-0.4, 0.2, 1.7])[None, :, None, None].expand(2, 3, 2, 2)
STEPS = 80
SHAPE = (2, 3, 8, 8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def box(theta: Tensor) -> Tensor:
    return theta.clamp(0, 1)


def landscape(
    loss: Callable[[Tensor], Tensor], *, seed: int = 0, progress: float = 0.0, common: bool = True
) -> Landscape:
    return Landscape(loss, box, progress, common, torch.Generator().manual_seed(seed))


def linear(slope: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda theta: (theta * slope).sum((1, 2, 3))


def valley(theta: Tensor) -> Tensor:
    """Lowest, within the box, where the left is black and the right is white."""
    return (theta - torch.tensor([-0.5, 1.5]).repeat_interleave(4)).square().sum((1, 2, 3))


def counted(loss: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    asked: list[Tensor] = []
    return lambda theta: (asked.append(theta.detach().clone()), loss(theta))[1], asked


def search(
    optimiser: Optimiser,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int = STEPS,
    first: int = 0,
    common: bool = True,
    found: tuple[Tensor, dict[str, Tensor]] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    theta, state = found or (torch.full(SHAPE, 0.5), optimiser.init(torch.full(SHAPE, 0.5)))
    for step in range(first, steps):
        here = landscape(loss, seed=step, progress=step / STEPS, common=common and step > 0)
        theta, state, _ = optimiser.step(theta, here, state)
        assert torch.equal(box(theta), theta)
    return theta, state


def descend(rule: Rule, *, steps: int = STEPS) -> Tensor:
    theta = torch.full((2, 3, 2, 2), 0.5)
    state = rule.init(theta)
    for step in range(steps):
        theta, state = rule.update(theta, theta - WANTED, state, progress=step / steps)
        theta = theta.clamp(0, 1)
    return theta


@pytest.mark.parametrize("rule", [PGD(0.05), PGD(0.5, norm="l2"), Adam(0.05)], ids=repr)
def test_a_quadratic_is_solved_inside_the_box(rule: Rule):
    torch.testing.assert_close(descend(rule), WANTED.clamp(0, 1), atol=0.02, rtol=0)


def test_a_constant_step_keeps_circling():
    missed = (descend(PGD(0.07, momentum=0.0, schedule="constant")) - WANTED.clamp(0, 1)).abs().max()
    assert 0.005 < missed <= 0.07


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_update_is_pure(rule: Rule):
    theta, gradient = normal(2, 3, 4, 4).requires_grad_(), normal(2, 3, 4, 4, seed=1)
    state = rule.init(theta)
    kept = {name: value.clone() for name, value in state.items()}
    first, first_state = rule.update(theta, gradient, state, progress=0.3)
    second, second_state = rule.update(theta, gradient, state, progress=0.3)
    assert torch.equal(first, second)
    assert all(torch.equal(first_state[name], second_state[name]) for name in state)
    assert all(torch.equal(state[name], kept[name]) for name in state)
    assert not first.requires_grad
    assert not torch.equal(first, theta)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_artworks_do_not_influence_each_other(rule: Rule):
    theta, gradient = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    together, _ = rule.update(theta, gradient * torch.tensor([1.0, 100.0])[:, None, None, None],
                              rule.init(theta), progress=0.0)  # fmt: skip
    alone, _ = rule.update(theta[:1], gradient[:1], rule.init(theta[:1]), progress=0.0)
    torch.testing.assert_close(together[:1], alone)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_no_gradient_means_no_step(rule: Rule):
    theta = normal(1, 3, 4, 4)
    moved, _ = rule.update(theta, torch.zeros_like(theta), rule.init(theta), progress=0.0)
    assert torch.equal(moved, theta)


def test_first_steps_have_the_length_asked_for():
    theta, gradient = torch.zeros(1, 3, 4, 4), normal(1, 3, 4, 4)
    sign, _ = PGD(0.1).update(theta, gradient, PGD(0.1).init(theta), progress=0.0)
    torch.testing.assert_close(sign, -0.1 * gradient.sign())
    euclid = PGD(0.1, norm="l2")
    step, _ = euclid.update(theta, gradient, euclid.init(theta), progress=0.5)
    assert step.norm().item() == pytest.approx(0.05)


def test_adam_is_torch_adam():
    theta = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    reference = theta.clone().requires_grad_()
    theirs, ours = torch.optim.Adam([reference], lr=0.05), Adam(0.05, schedule="constant")
    state = ours.init(theta)
    for seed in range(5):
        gradient = normal(1, 3, 4, 4, seed=seed)
        reference.grad = gradient
        theirs.step()
        theta, state = ours.update(theta, gradient, state, progress=0.0)
    torch.testing.assert_close(theta, reference.detach())


def misfit(estimate: Tensor, truth: Tensor, *, pairs: int) -> float:
    """Root mean square error in units of the sampling error |truth| / √pairs."""
    error = (estimate - truth).square().mean((1, 2, 3)).sqrt()
    return (error * pairs**0.5 / truth.flatten(1).norm(dim=1)).max().item()


@pytest.mark.parametrize("kind", [SPSA, NES])
def test_estimates_are_the_gradient_on_average(kind: type[SPSA]):
    slope, theta, pairs = normal(2, 3, 2, 2), torch.full((2, 3, 2, 2), 0.5), 1000
    estimate, losses = kind(pairs=pairs, sigma=0.05, tiles=2)(theta, landscape(linear(slope)))
    assert 0.5 < misfit(estimate, slope, pairs=pairs) < 1.5
    for wrong in (1.3, 0.7):
        assert misfit(wrong * estimate, slope, pairs=pairs) > 2, "a wrong scale is noticed"
    torch.testing.assert_close(losses, linear(slope)(theta), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", [SPSA, NES])
def test_estimates_on_tiles_are_the_gradient_averaged_within_them(kind: type[SPSA]):
    slope, pairs = normal(2, 3, 4, 6) + 0.5, 1000
    tiled = torch.nn.functional.avg_pool2d(slope, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    estimate, _ = kind(pairs=pairs, sigma=0.05, tiles=3)(torch.full((2, 3, 4, 6), 0.5), landscape(linear(slope)))
    assert misfit(estimate, tiled, pairs=pairs) < 1.5
    assert misfit(estimate, slope, pairs=pairs) > 2
    assert torch.equal(estimate[:, :, ::2], estimate[:, :, 1::2])


@pytest.mark.parametrize(("kind", "values"), [(SPSA, {-0.25, 0.25}), (NES, None)])
def test_probes_are_antithetic_and_drawn_for_each_artwork(kind: type[SPSA], values: set[float] | None):
    loss, asked = counted(valley)
    estimator, theta = kind(pairs=3, sigma=0.25, tiles=8), torch.full(SHAPE, 0.5)
    estimator(theta, landscape(loss))
    assert len(asked) == estimator.evaluations == 6
    inside = (asked[0] > 0) & (asked[0] < 1)
    torch.testing.assert_close((asked[0] - theta)[inside], (theta - asked[1])[inside])
    assert not torch.equal(asked[0][0], asked[0][1])
    assert not torch.equal(asked[0], asked[2])
    assert values is None or set((asked[0] - theta).unique().tolist()) == values


@pytest.mark.parametrize("kind", [SPSA, NES])
def test_probes_are_pictures_and_build_no_graph(kind: type[SPSA]):
    loss, asked = counted(lambda theta: theta.sum((1, 2, 3)) + 0 * float(torch.is_grad_enabled() and 1 / 0))
    gradient, losses = kind(pairs=2, sigma=0.5)(torch.ones(SHAPE).requires_grad_(), landscape(loss))
    assert all(torch.equal(box(theta), theta) for theta in asked)
    assert not gradient.requires_grad
    assert not losses.requires_grad
    assert gradient.abs().sum() > 0, "at the edge of the box, one of the pair still moves"


def test_more_tiles_than_pixels_are_pixels():
    theta, pairs = torch.full((1, 3, 3, 5), 0.5), 500
    slope = normal(1, 3, 3, 5)
    estimate, _ = SPSA(pairs=pairs, tiles=99)(theta, landscape(linear(slope)))
    assert misfit(estimate, slope, pairs=pairs) < 1.5


def test_random_search_never_climbs():
    theta, optimiser = torch.full(SHAPE, 0.5), RandomSearch()
    state, lowest = optimiser.init(theta), valley(theta)
    for step in range(60):
        theta, state, losses = optimiser.step(
            theta, landscape(valley, seed=step, progress=step / 60, common=step > 0), state
        )
        assert torch.equal(losses, lowest), "the loss of the θ that was given"
        assert bool((valley(theta) <= lowest).all())
        assert torch.equal(state["loss"], valley(theta))
        lowest = valley(theta)
    assert bool((lowest < 0.9 * valley(torch.full(SHAPE, 0.5))).all())


def test_random_search_goes_to_the_corners_of_a_ball():
    base, epsilon = 0.2 + 0.6 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)), 0.03
    slope, optimiser = normal(2, 3, 1, 1).expand(SHAPE), RandomSearch(share=(0.3, 0.01))
    theta, state = base, optimiser.init(base)
    for step in range(150):
        here = landscape(linear(slope), seed=step, common=step > 0)
        here = replace(here, project=lambda s: s.clamp(base - epsilon, base + epsilon))
        theta, state, _ = optimiser.step(theta, here, state)
    torch.testing.assert_close((theta - base).abs(), torch.full(SHAPE, epsilon))
    reached = linear(slope)(base - theta) / linear(slope)(epsilon * slope.sign())
    assert bool((reached > 0.9).all())


def test_random_search_proposes_stripes_and_then_squares_that_shrink():
    loss, asked = counted(lambda theta: -(theta - 0.5).abs().sum((1, 2, 3)) * 0)
    optimiser, theta = RandomSearch(share=(0.5, 0.01)), torch.full((2, 3, 32, 32), 0.5)
    _, state, _ = optimiser.step(theta, landscape(loss), optimiser.init(theta))
    stripes = asked[-1]
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert stripes.unique().tolist() == [0.0, 1.0]
    sides = []
    for progress in (0.0, 0.5, 1.0):
        optimiser.step(theta, landscape(loss, progress=progress, seed=3), state)
        changed = (asked[-1] != theta).any(1)
        rows, columns = changed.any(2).sum(1), changed.any(1).sum(1)
        assert torch.equal(changed.sum((1, 2)), rows * columns)
        assert torch.equal(rows, columns)
        assert rows[0] == rows[1]
        sides.append(int(rows[0]))
        assert len(asked[-1][0].flatten(1)[:, changed[0].flatten()].unique(dim=1).T) == 1, "one colour"
    assert sides[0] > sides[1] > sides[2] >= 1
    assert not torch.equal(asked[-3] != theta, (asked[-3] != theta).flip(0)), "each artwork has its own square"


@pytest.mark.parametrize("common", [True, False])
def test_random_search_asks_as_little_as_it_can(common: bool):
    loss, asked = counted(valley)
    search(RandomSearch(), loss, steps=5, common=common)
    assert len(asked) == (1 + 5 if common else 2 * 5)


def test_random_search_compares_on_the_same_views():
    """A loss remembered from easier views must not make every proposal look bad."""
    theta, optimiser = torch.full(SHAPE, 0.5), RandomSearch()
    state, moved = optimiser.init(theta), 0
    for step in range(20):
        views = landscape(lambda s, step=step: valley(s) + 1000 * step, seed=step, progress=step / 20, common=False)
        after, state, _ = optimiser.step(theta, views, state)
        moved += not torch.equal(after, theta)
        theta = after
    assert moved > 3


@pytest.mark.parametrize("common", [True, False])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_search_goes_on_from_its_state_at_the_same_bits(name: str, common: bool):
    optimiser = make_optimiser(name)
    whole, _ = search(optimiser, valley, steps=12, common=common)
    half = search(optimiser, valley, steps=5, common=common)
    again, _ = search(optimiser, valley, steps=12, first=5, common=common, found=half)
    assert torch.equal(again, whole)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_comes_down(name: str):
    optimiser, start = make_optimiser(name), torch.full(SHAPE, 0.5)
    loss, asked = counted(valley)
    theta, _ = search(optimiser, loss)
    assert bool((valley(theta) < 0.9 * valley(start)).all())
    assert isinstance(optimiser, Optimiser)
    assert len(asked) <= STEPS * optimiser.evaluations
    assert not theta.requires_grad


@pytest.mark.parametrize("name", OPTIMISERS)
def test_no_optimiser_moves_where_nothing_is_lower(name: str):
    optimiser, start = make_optimiser(name), torch.full(SHAPE, 0.5)
    theta, state, losses = optimiser.step(
        start, landscape(lambda theta: theta.sum((1, 2, 3)) * 0), optimiser.init(start)
    )
    assert torch.equal(theta, start)
    assert torch.equal(losses, torch.zeros(2))
    assert not any(value.isnan().any() for value in state.values())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_only_what_needs_gradients_asks_for_a_graph(name: str):
    asked = []
    optimiser, start = make_optimiser(name), torch.full(SHAPE, 0.5)
    optimiser.step(start, landscape(lambda theta: (asked.append(torch.is_grad_enabled()), valley(theta))[1]),
                   optimiser.init(start))  # fmt: skip
    assert asked
    assert all(grad == optimiser.gradients for grad in asked)


def test_optimisers_are_made_by_name():
    assert make_optimiser("pgd", 0.1) == Descent(PGD(0.1))
    assert make_optimiser("adam") == Descent(Adam(0.02), Autograd())
    assert make_optimiser("pgd-l2").rule.norm == "l2"
    assert make_optimiser("spsa:20").gradient == SPSA(pairs=20)
    assert make_optimiser("nes-l2:3", 0.3) == Descent(PGD(0.3, norm="l2"), NES(pairs=3))
    assert make_optimiser("random-search") == RandomSearch()
    assert make_optimiser("spsa:7").evaluations == 14


def test_the_radius_of_a_ball_sets_the_steps():
    assert make_optimiser("pgd", radius=0.04) == Descent(PGD(0.01))
    assert make_optimiser("pgd-l2", radius=2.0).rule.step_size == 0.5
    assert make_optimiser("nes", radius=0.04).gradient == NES(sigma=0.02, tiles=24)
    assert make_optimiser("nes-l2:3", radius=2.0).gradient == NES(pairs=3, sigma=0.01, tiles=24)
    assert make_optimiser("pgd", 0.3, radius=0.04) == Descent(PGD(0.3))
    assert make_optimiser("random-search", radius=0.04) == RandomSearch()
    assert make_optimiser("random-search-l2", radius=0.5) == RandomSearch(0.025)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: make_optimiser("padam"), "did you mean 'adam'"),
        (lambda: make_optimiser("spas:20"), "did you mean 'spsa'"),
        (lambda: make_optimiser("pgd:20"), "There is no optimiser 'pgd:20'"),
        (lambda: make_optimiser("spsa:many"), "whole number, as in spsa:10"),
        (lambda: make_optimiser("spsa:"), "whole number"),
        (lambda: make_optimiser("nes:0"), "1 or more"),
        (lambda: make_optimiser("pgd", 0.0), "step size"),
        (lambda: make_optimiser("random-search", 0.0), "step size"),
        (lambda: PGD(0.1, momentum=1.0), "momentum"),
        (lambda: Adam(0.1, betas=(0.9, 1.0)), "Betas"),
        (lambda: SPSA(sigma=0.0), "Probes"),
        (lambda: NES(tiles=0), "tiles"),
        (lambda: RandomSearch(share=(1.5, 0.1)), "Squares"),
    ],
)
def test_bad_settings_are_refused(make, sentence: str):
    with pytest.raises(UserError, match=sentence):
        make()
