"""argmin: pure steps that find the minimum."""

import pytest
import torch

from physadv.errors import UserError
from physadv.optimisers.adam import Adam
from physadv.optimisers.base import Optimiser
from physadv.optimisers.catalogue import make_optimiser
from physadv.optimisers.pgd import PGD

ALL = [PGD(0.05), PGD(0.05, momentum=0.0, schedule="constant"), PGD(0.5, norm="l2"), Adam(0.05)]
WANTED = torch.tensor([-0.4, 0.2, 1.7])[None, :, None, None].expand(2, 3, 2, 2)
STEPS = 80


def descend(optimiser: Optimiser, *, steps: int = STEPS) -> torch.Tensor:
    theta = torch.full((2, 3, 2, 2), 0.5)
    state = optimiser.init(theta)
    for step in range(steps):
        theta, state = optimiser.update(theta, theta - WANTED, state, progress=step / steps)
        theta = theta.clamp(0, 1)
    return theta


@pytest.mark.parametrize("optimiser", [PGD(0.05), PGD(0.5, norm="l2"), Adam(0.05)], ids=repr)
def test_a_quadratic_is_solved_inside_the_box(optimiser: Optimiser):
    torch.testing.assert_close(descend(optimiser), WANTED.clamp(0, 1), atol=0.02, rtol=0)


def test_a_constant_step_keeps_circling():
    missed = (descend(PGD(0.07, momentum=0.0, schedule="constant")) - WANTED.clamp(0, 1)).abs().max()
    assert 0.005 < missed <= 0.07


@pytest.mark.parametrize("optimiser", ALL, ids=repr)
def test_update_is_pure(optimiser: Optimiser):
    generator = torch.Generator().manual_seed(0)
    theta = torch.rand(2, 3, 4, 4, generator=generator).requires_grad_()
    gradient = torch.randn(2, 3, 4, 4, generator=generator)
    state = optimiser.init(theta)
    kept = {name: value.clone() for name, value in state.items()}
    first, first_state = optimiser.update(theta, gradient, state, progress=0.3)
    second, second_state = optimiser.update(theta, gradient, state, progress=0.3)
    assert torch.equal(first, second)
    assert all(torch.equal(first_state[name], second_state[name]) for name in state)
    assert all(torch.equal(state[name], kept[name]) for name in state)
    assert not first.requires_grad
    assert not torch.equal(first, theta)


@pytest.mark.parametrize("optimiser", ALL, ids=repr)
def test_artworks_do_not_influence_each_other(optimiser: Optimiser):
    generator = torch.Generator().manual_seed(0)
    theta, gradient = torch.rand(2, 3, 4, 4, generator=generator), torch.randn(2, 3, 4, 4, generator=generator)
    together, _ = optimiser.update(theta, gradient * torch.tensor([1.0, 100.0])[:, None, None, None],
                                   optimiser.init(theta), progress=0.0)  # fmt: skip
    alone, _ = optimiser.update(theta[:1], gradient[:1], optimiser.init(theta[:1]), progress=0.0)
    torch.testing.assert_close(together[:1], alone)


@pytest.mark.parametrize("optimiser", ALL, ids=repr)
def test_no_gradient_means_no_step(optimiser: Optimiser):
    theta = torch.rand(1, 3, 4, 4)
    moved, _ = optimiser.update(theta, torch.zeros_like(theta), optimiser.init(theta), progress=0.0)
    assert torch.equal(moved, theta)


def test_first_steps_have_the_length_asked_for():
    theta, gradient = torch.zeros(1, 3, 4, 4), torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
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
        gradient = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        reference.grad = gradient
        theirs.step()
        theta, state = ours.update(theta, gradient, state, progress=0.0)
    torch.testing.assert_close(theta, reference.detach())


def test_optimisers_are_made_by_name():
    assert make_optimiser("pgd", 0.1) == PGD(0.1)
    assert make_optimiser("pgd-l2").norm == "l2"
    assert isinstance(make_optimiser("adam"), Adam)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: make_optimiser("padam"), "did you mean 'adam'"),
        (lambda: make_optimiser("pgd", 0.0), "step size"),
        (lambda: PGD(0.1, momentum=1.0), "momentum"),
        (lambda: Adam(0.1, betas=(0.9, 1.0)), "Betas"),
    ],
)
def test_bad_settings_are_refused(make, sentence: str):
    with pytest.raises(UserError, match=sentence):
        make()
