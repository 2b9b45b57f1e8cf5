"""Callbacks of tests: trials that go wrong when told to, and a witness of what a process of a run has in its hands."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

from lightning import Callback, Trainer

from vae_lab.system.processes import ranks
from vae_lab.training.tasks.task import Task


class Sabotage(Callback):
    """At a trial of its choice, raises, diverges or kills its process after a batch, as long as a file exists.

    Args:
        here: this trial.
        at: the trial that goes wrong.
        how: "raise", "diverge" or "kill".
        batch: the batch after which it does.
        while_exists: the file.
        rank: the process of the run in which it does.
    """

    def __init__(self, *, here: object, at: object, how: str, batch: int, while_exists: str, rank: int = 0) -> None:
        self.active = str(here) == str(at) and Path(while_exists).exists() and rank == ranks().rank
        self.how = how
        self.batch = batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: Task, *_: object) -> None:
        if not self.active or trainer.global_step < self.batch:
            return
        Path("struck").write_text(str(time.time()))
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "diverge":
            for parameter in pl_module.parameters():
                parameter.data.fill_(float("nan"))
            return
        raise RuntimeError("sabotaged\nin two lines")


class Signals(Callback):
    """Sends its process a signal, so many times, at the first call of a hook, or in a batch.

    Args:
        number: the signal.
        hook: a callback's hook, or "batch".
        times: how often.
    """

    def __init__(self, *, number: int, hook: str, times: int = 1) -> None:
        self.number = number
        self.hook = hook
        self.times = times
        if hook != "batch":
            setattr(self, hook, self.strike)

    def on_train_batch_start(self, *_: object) -> None:
        if self.hook == "batch":
            self.strike()

    def strike(self, *args: object, **kwargs: object) -> None:
        due, self.times = self.times, 0
        for _ in range(due):
            os.kill(os.getpid(), self.number)


class Spoil(Callback):
    """Changes the weights, or the optimizer's state, after a batch."""

    def __init__(self, how: str, batch: int = 2) -> None:
        self.how = how
        self.batch = batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: Task, *_: object) -> None:
        if trainer.global_step != self.batch:
            return
        if self.how == "large weights":
            for parameter in pl_module.parameters():
                parameter.data.mul_(30)
        elif self.how == "a moment":
            (optimizer,) = trainer.optimizers
            next(iter(optimizer.state.values()))["exp_avg_sq"].fill_(float("inf"))
        else:
            next(pl_module.parameters()).data.fill_(float("nan"))


class Witness(Callback):
    """Writes what a process has at the end of training to `witness-<rank>.json` in its working directory."""

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        state = pl_module.state_dict()
        digest = hashlib.sha256(b"".join(state[name].cpu().numpy().tobytes() for name in sorted(state))).hexdigest()
        seen = {"digest": digest, "loggers": len(trainer.loggers), "batches": trainer.global_step}
        Path(f"witness-{ranks().rank}.json").write_text(json.dumps(seen))
