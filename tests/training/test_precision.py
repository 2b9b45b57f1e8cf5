"""bfloat16 arithmetic: weights are cast anew each time."""

from collections.abc import Callable

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from omegaconf import DictConfig
from torch import Tensor

from vae_lab.training.run import build_parts
from vae_lab.training.tasks.task import Task

SETTINGS = ("model=mlp", "trainer.precision=bf16-mixed", "trainer.max_steps=3", "trainer.val_check_interval=3")


def caching(plugin: MixedPrecision) -> torch.autocast:
    """Lightning's context but for the cache, which would keep casts of weights until the context ends."""
    return torch.autocast(plugin.device, torch.bfloat16, cache_enabled=True)


class Compare(Callback):
    """Compares what weights give in the autocast context of a batch with what fresh casts give, twice a batch."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.fresh: list[bool] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Task, *_: object) -> None:
        with trainer.precision_plugin.train_step_context():
            for _turn in range(2):
                seen = pl_module.model.posterior(self.image).mean
                with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                    self.fresh.append(seen.equal(pl_module.model.posterior(self.image).mean))
                with torch.no_grad():
                    for parameter in pl_module.model.parameters():
                        parameter.mul_(1.5)


@pytest.mark.parametrize("cached", [False, True], ids=["as Lightning has it", "with a cache, which is noticed"])
def test_no_cast_weight_outlives_a_change_of_the_weights(
    cached: bool, config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GAN task steps its optimizers inside the context of a batch, so that a cached cast would be of old weights."""
    if cached:
        monkeypatch.setattr(MixedPrecision, "autocast_context_manager", caching)
    data, task, trainer = build_parts(config(*SETTINGS), {})
    compare = Compare(data.splits.train.pixels(slice(4)).float() / 255)
    trainer.callbacks.append(compare)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(task, datamodule=data)
    assert compare.fresh == [True, not cached] * 3
