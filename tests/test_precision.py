"""bfloat16 arithmetic: weights are cast anew for every batch."""

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from omegaconf import DictConfig

from vae_lab.tasks.task import Task
from vae_lab.training import build

SETTINGS = ("model=mlp", "trainer.precision=bf16-mixed", "trainer.max_steps=3", "trainer.val_check_interval=3")


def caching(plugin: MixedPrecision) -> torch.autocast:
    """Lightning's context but for the cache, which would keep casts of weights until the context ends."""
    return torch.autocast(plugin.device, torch.bfloat16, cache_enabled=True)


@pytest.mark.parametrize("cached", [False, True], ids=["as Lightning has it", "with a cache, which is noticed"])
def test_no_cast_weight_outlives_a_step_of_the_optimizer(
    cached: bool, config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several batches share one autocast context, so that a cached cast would be of the weights before the step."""
    if cached:
        monkeypatch.setattr(MixedPrecision, "autocast_context_manager", caching)
    data, task, trainer = build(config(*SETTINGS), {})
    image, fresh = data.parts.train.pixels(slice(4)).float() / 255, []

    def compare(task: Task) -> None:
        assert torch.is_autocast_enabled("cpu")
        seen = task.model.posterior(image).mean
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            fresh.append(seen.equal(task.model.posterior(image).mean))

    task.listeners.append(compare)
    trainer.fit(task, datamodule=data)
    assert fresh == [not cached] * 3
