"""What a person sees while it runs: a bar with the time left on a terminal, plain lines in a pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console as Rich
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from physadv.attacks import Step
from physadv.harden.judge import Pair
from physadv.harden.loop import Epoch as Hardening
from physadv.training import Progress as Epoch

EVERY_S = 20.0  # a line of a step, in a pipe
INSTANT_S = 0.1  # no attack is made so soon: its outcome was on disk


class Console:
    """Progress of long commands, on standard error, so that results can be piped."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.rich = Rich(stderr=True, quiet=quiet)
        self._bar: Progress | None = None
        self._last = -1

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *reason: object) -> None:
        """The bar goes, and the cursor comes back, also where an error ended the command."""
        self._stop()

    def attack(self, step: Step) -> None:
        """After every step of an attack."""
        done = step.restart * step.steps + step.step
        success = "" if step.success is None else f"held-out success {100 * step.success:.0f} %, "
        note = f"{step.note}, " if step.note else ""
        text = f"loss {step.loss:+.2f}, {success}{note}{duration(step.seconds_left)} left"
        if not self.rich.is_terminal:
            if step.success is not None or step.note:
                self.rich.print(f"step {step.step}/{step.steps} (start {step.restart + 1}): {text}", highlight=False)
            return
        if self._bar is None or done <= self._last:
            self._stop()
            columns = (TextColumn("attack"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.rich, transient=True)
            self._bar.add_task(text, total=step.steps)
            self._bar.start()
        self._last = done
        self._bar.update(self._bar.task_ids[0], completed=step.step, description=text)
        if step.step == step.steps:
            self._stop()

    def training(self, epoch: Epoch) -> None:
        """After every epoch of a training."""
        self.rich.print(
            f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.3f}, {epoch.measure} {100 * epoch.accuracy:.1f} %, "
            f"{duration(epoch.seconds_left)} left",
            highlight=False,
        )

    @contextmanager
    def steps(self, what: str) -> Iterator[Callable[[int, int, float], None]]:
        """Yields what to call after every step of a training: a bar, or a plain line now and then."""
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = bar = Progress(*columns, console=self.rich, transient=True, disable=not self.rich.is_terminal)
        task = bar.add_task("", total=None)
        bar.start()
        start = said = time.monotonic()
        first: int | None = None

        def after(step: int, steps: int, loss: float) -> None:
            nonlocal first, said
            now = time.monotonic()
            first = step - 1 if first is None else first
            left = f"loss {loss:.3f}, {duration((now - start) / (step - first) * (steps - step))} left"
            bar.update(task, completed=step, total=steps, description=left)
            if not self.rich.is_terminal and now - said > EVERY_S:
                said = now
                self.say(f"{what} {step}/{steps}: {left}")

        yield after
        self._stop()

    def hardening(self, epoch: Hardening) -> None:
        """After every epoch of a hardening."""
        self.say(
            f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.3f}, held out: robust {100 * epoch.robust:.1f} %, "
            f"clean {100 * epoch.clean:.1f} %, {duration(epoch.seconds_left)} left"
            + (f"; {epoch.note}" if epoch.note else "")
        )

    @contextmanager
    def judging(self, total: int) -> Iterator[Callable[[Pair], None]]:
        """Yields what to call after every attack that judges. Those that were known already say nothing of the time."""
        last, done, made, spent = time.monotonic(), 0, 0, 0.0
        self.say(f"judging before and after by {total} fresh attacks each")

        def after(pair: Pair) -> None:
            nonlocal last, done, made, spent
            seconds, last = time.monotonic() - last, time.monotonic()
            done += 1
            known = seconds < INSTANT_S
            made, spent = (made, spent) if known else (made + 1, spent + seconds)
            before, now = (round(100 * one.right.double().mean().item()) for one in (pair.before, pair.after))
            left = "known from before" if known else f"{duration(spent / made * (total - done))} left"
            name = f"{pair.trial.name}, {pair.trial.world.name}"
            self.say(f"{done}/{total} {name}: robust {before} % -> {now} %; {left}")

        yield after

    @contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        """Lines of what is being judged."""
        yield lambda what: self.rich.print(f"judging: {what}", highlight=False)

    def say(self, text: str) -> None:
        """One line."""
        self.rich.print(text, highlight=False, markup=False, soft_wrap=True)

    def announce(self, what: str, seconds: float) -> None:
        """What a long command is about to do, and how long that will take."""
        self.rich.print(f"{what}: about {duration(seconds)}", highlight=False, soft_wrap=True)

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yields what to call with how many more are done: a bar, or a plain line at every tenth of the way."""
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        start, done = time.monotonic(), 0
        self._bar = bar = Progress(*columns, console=self.rich, transient=True, disable=not self.rich.is_terminal)
        task = bar.add_task("", total=total)
        bar.start()

        def advance(more: int) -> None:
            nonlocal done
            tenths, done = 10 * done // total, done + more
            left = f"{duration((time.monotonic() - start) / done * (total - done))} left"
            bar.update(task, completed=done, description=left)
            if not self.rich.is_terminal and 10 * done // total > tenths:
                self.rich.print(f"{what}: {done} of {total}, {left}", highlight=False)

        yield advance
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
