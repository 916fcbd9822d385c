"""min over the weights φ of E[ max_θ L(f_φ(t(x ⊕ θ)), y) ]: the outer loop (Madry et al. 2018, eq. 2.1)."""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from physadv import ranks
from physadv.harden.awp import perturbed_weights
from physadv.harden.memory import Memory
from physadv.harden.recipe import Plan
from physadv.learning import Learning, cosine

COLLAPSED = 0.6  # of the best held-out figure: what is left of it has overfitted to its own weak search
NOISE = 0.05  # by which a share of a hundred signs changes by chance
MOST_DOUBLED = 3  # times


@runtime_checkable
class Learner(Protocol):
    """What differs between classifiers and detectors: shards and their loss. Neither touches the network's mode.

    A frozen dataclass with `plan` as a field.
    """

    @property
    def plan(self) -> Plan: ...

    @property
    def memories(self) -> tuple[Memory, ...]: ...

    @property
    def steps(self) -> int: ...

    def shard(self, module: nn.Module, number: int) -> tuple[Any, list[tuple[int, Any]]]: ...

    def keep(self, kept: Sequence[tuple[int, Any]]) -> None: ...

    def loss(self, module: nn.Module, batch: Any) -> Float[Tensor, ""]: ...

    def together(self, shards: list[Any]) -> Any: ...


@dataclass(frozen=True)
class Epoch:
    """What an epoch reports. robust, clean: of the averaged weights on what was held out."""

    epoch: int
    epochs: int
    loss: float
    robust: float
    clean: float
    seconds: float
    seconds_left: float
    note: str = ""


@dataclass(frozen=True)
class Checked:
    """Held-out figures, in [0, 1]."""

    robust: float
    clean: float


@dataclass
class Best:
    """The weights with the best held-out robust figure so far."""

    state: dict[str, Tensor]
    robust: float = -1.0
    epoch: int = 0


@dataclass(frozen=True)
class Hardened:
    """history: a line per epoch; losses: of every step."""

    module: nn.Module
    history: tuple[Epoch, ...]
    losses: tuple[float, ...]
    best_epoch: int
    seconds: float


@dataclass
class _Run:
    learning: Learning[nn.Module]
    best: Best
    history: list[Epoch] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def collapses(self) -> int:
        return sum(bool(epoch.note) for epoch in self.history)


def harden(
    module: nn.Module,
    learner: Learner,
    *,
    told: Mapping[str, Any],
    check: Callable[[nn.Module], Checked],
    checkpoint: Path | None = None,
    report: Callable[[Epoch], None] = lambda epoch: None,
    after_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Hardened:
    """Train `module` in place; returns a copy with the averaged weights of its best epoch on held-out attacks.

    check: the robust and the clean figure of a network, on what is held out; it ends the training early and chooses.
    checkpoint: written after every epoch, and gone on from if it is there. told: what the training is of.
    UserError: several processes that cannot share this training.
    """
    plan = learner.plan
    ranks.check_shareable(module, shards=plan.batch // plan.shard, frozen_norm=plan.frozen_norm)
    how = {"learning_rate": plan.learning_rate, "weight_decay": plan.weight_decay}
    run = _Run(Learning.of(module, **how), Best(deepcopy(module.state_dict())))
    if checkpoint is not None and checkpoint.exists():
        _resume(run, learner, checkpoint, told)
    begun, since = len(run.history), time.monotonic()
    before = run.history[-1].seconds if run.history else 0.0
    for epoch in range(begun, plan.epochs):
        if _finished(run, plan):
            break
        loss = _epoch(run, _harder(learner, run.collapses), epoch, after_step)
        checked = check(run.learning.average)
        spent = time.monotonic() - since
        left = spent / (epoch + 1 - begun) * (plan.epochs - epoch - 1)
        _judge(run, checked, Epoch(epoch + 1, plan.epochs, loss, 0, 0, before + spent, left))
        if checkpoint is not None and ranks.rank() == 0:
            _save(run, learner, checkpoint, told)
        report(run.history[-1])
    hardened = deepcopy(run.learning.average)
    hardened.load_state_dict(run.best.state)
    seconds = run.history[-1].seconds if run.history else 0.0
    return Hardened(hardened.eval(), tuple(run.history), tuple(run.losses), run.best.epoch, seconds)


def _epoch(run: _Run, learner: Learner, epoch: int, after_step: Callable[[int, int, float], None]) -> float:
    """One pass over the images; the mean loss."""
    for step in range(learner.steps):
        loss = _step(run.learning, learner, epoch * learner.steps + step)
        run.losses.append(loss)
        after_step(epoch * learner.steps + step + 1, learner.plan.epochs * learner.steps, loss)
    ranks.shared_state(run.learning.module)
    ranks.shared_state(run.learning.average)
    return sum(run.losses[-learner.steps :]) / learner.steps


def _step(learning: Learning[nn.Module], learner: Learner, number: int) -> float:
    """Search, then descend."""
    plan, module = learner.plan, learning.module
    shards = plan.batch // plan.shard
    mine = range(number * shards + ranks.rank(), (number + 1) * shards, ranks.size())
    made = [learner.shard(module, one) for one in mine]
    batch = learner.together([shard for shard, _ in made])
    _train(module, plan)
    loss = _backward(learning, learner, batch)
    if plan.awp:
        with perturbed_weights(module, plan.awp):
            _backward(learning, learner, batch)
    rate = cosine(number, plan.epochs * learner.steps, plan.learning_rate)
    learning.follow(loss, rate=rate, clip=plan.clip)
    learning.remember(plan.ema)
    for found in ranks.gathered([found for _, found in made]):
        learner.keep(found)
    return ranks.mean(loss.item())


def _backward(learning: Learning[nn.Module], learner: Learner, batch: Any) -> Float[Tensor, ""]:
    learning.optimiser.zero_grad()
    loss = learner.loss(learning.module, batch)
    loss.backward()
    ranks.average_gradients(learning.module)
    return loss.detach()


def _train(module: nn.Module, plan: Plan) -> None:
    """As in evaluation, but for the statistics of norms: what is trained is the network that was attacked."""
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and not plan.frozen_norm:
            part.train()


def _harder(learner: Learner, times: int) -> Learner:
    """The same with twice the steps in each search, half as long, for every time that robustness collapsed."""
    if not times:
        return learner
    plan, more = learner.plan, 2 ** min(times, MOST_DOUBLED)
    recipe = plan.recipe
    longer = {"step_size": recipe.step_size / more, "ball_step": recipe.ball_step / more, "steps": recipe.steps * more}
    made: Learner = replace(learner, plan=replace(plan, recipe=replace(recipe, **longer)))  # type: ignore
    return made


def _judge(run: _Run, checked: Checked, epoch: Epoch) -> None:
    """Note the held-out figures; keep the best weights, and go back to them where robustness has collapsed.

    Catastrophic overfitting (Wong et al. 2020, section 5.4): the search of the training wins no more, stronger ones do.
    """
    robust, clean, note = ranks.agreed(checked.robust), ranks.agreed(checked.clean), ""
    if robust >= run.best.robust:
        run.best = Best(deepcopy(run.learning.average.state_dict()), robust, epoch.epoch)
    elif robust < COLLAPSED * run.best.robust - NOISE:
        note = f"robustness collapsed: back to the weights of epoch {run.best.epoch}, with longer searches"
        run.learning.module.load_state_dict(run.best.state)
        run.learning.average.load_state_dict(run.best.state)
    run.history.append(replace(epoch, robust=robust, clean=clean, note=note))


def _finished(run: _Run, plan: Plan) -> bool:
    return bool(plan.patience) and len(run.history) - run.best.epoch >= plan.patience


def _save(run: _Run, learner: Learner, path: Path, told: Mapping[str, Any]) -> None:
    also = {f"best.{name}": value for name, value in run.best.state.items()}
    for which, memory in enumerate(learner.memories):
        also |= {f"memory.{which}.{name}": value for name, value in memory.tensors().items()}
    numbers = {"history": [vars(one) for one in run.history], "losses": run.losses}
    numbers |= {"best": [run.best.robust, run.best.epoch]}
    run.learning.save(path, told, also=also, numbers=numbers)


def _resume(run: _Run, learner: Learner, path: Path, told: Mapping[str, Any]) -> None:
    also, numbers = run.learning.load(path, told)
    state = {name.removeprefix("best."): value for name, value in also.items() if name.startswith("best.")}
    run.best = Best(state, *numbers["best"])
    run.history, run.losses = [Epoch(**one) for one in numbers["history"]], numbers["losses"]
    for which, memory in enumerate(learner.memories):
        mine = f"memory.{which}."
        memory.restore({name.removeprefix(mine): value for name, value in also.items() if name.startswith(mine)})
