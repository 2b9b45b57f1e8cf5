"""The training loops that benchmarks/gpu.py times beside each other."""

import time
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.gpu_checks import BARE, trained
from benchmarks.step import PlainLoop, wait_for
from vae_lab.data.images import ImageSet


class GraphedLoop(PlainLoop):
    """The plain loop with its whole step in one CUDA graph: what is left where Python and launches cost nothing."""

    def __init__(self, images: ImageSet, batch_size: int, precision: str, device: str) -> None:
        super().__init__(images, batch_size, precision, device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=5e-4, fused=True, capturable=True)
        self.rows = self.order[self.places]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # the first steps allocate, which no graph can hold
            for _ in range(3):
                self.step_at_rows()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step_at_rows()

    def step_at_rows(self) -> None:
        """Take a step on the images at `rows`."""
        self.optimizer.zero_grad()
        self.loss(self.rows).backward()
        self.optimizer.step()

    def step(self) -> None:
        """Take a step."""
        places = (self.places + self.steps * self.batch_size) % len(self.order)
        torch.index_select(self.order, 0, places, out=self.rows)
        self.graph.replay()
        self.steps += 1


class Turns(Callback):
    """Lets other loops take a turn after every block of batches of a real run, and times all.

    Args:
        block: batches in a turn.
        device: "cuda" or "cpu".

    Attributes:
        seconds: of one step, by loop, one for each turn.
    """

    def __init__(self, block: int, device: str) -> None:
        self.block = block
        self.device = device
        self.seconds: dict[str, list[float]] = {"train": []}
        self.loops: dict[str, PlainLoop] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the other loops."""
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        settings = (data.splits.train, data.batch_size, str(trainer.precision), self.device)
        self.loops = {"plain loop": PlainLoop(*settings)}
        if self.device == "cuda":
            self.loops["CUDA graph"] = GraphedLoop(*settings)
        for loop in self.loops.values():
            loop.run(self.block)
        self.mark = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Time a block of each."""
        if trainer.global_step % self.block:
            return
        wait_for(pl_module.device)
        self.seconds["train"].append((time.perf_counter() - self.mark) / self.block)
        for name, loop in self.loops.items():
            self.seconds.setdefault(name, []).append(loop.run(self.block) / self.block)
        self.mark = time.perf_counter()


def speeds(device: str, folder: Path, *settings: str, block: int, nblocks: int) -> dict[str, list[float]]:
    """Return the seconds of one step, by loop, one for each turn of a run with these settings; the first warms up."""
    turns, steps = Turns(block, device), block * nblocks
    length = (f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}")
    trained(device, folder, *length, *BARE, *settings, watchers=[turns])
    return turns.seconds
