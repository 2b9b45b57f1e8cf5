"""Networks compiled in training batches: the same losses, the same keys, and what torch cannot compile is told."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from lightning import Callback, Trainer
from omegaconf import DictConfig
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from vae_lab.errors import exit_code
from vae_lab.training.callbacks.compiled import Compiled
from vae_lab.training.run import train_run, translate_error
from vae_lab.training.tasks.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of torch's own
SMALL = ("data.image_size=8", "callbacks.gallery=null", "callbacks.latents=null", "logger=none")
# how many graphs: of encoder, decoder and discriminator, and of the decoder where its latents are drawn from the prior
TASKS = {
    "one optimizer": (2, "model=conv"),
    "several optimizers, with a gradient penalty": (4, "task=vaegan", "task.warmup=1", "data.image_size=16"),
}


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """No checks of shapes, which torch.compile cannot follow; nobody has them outside of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Graphs(Callback):
    """Counts what torch has compiled, and keeps the losses of training batches."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.ngraphs: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Task, outputs: dict[str, Tensor], *_: object) -> None:
        self.losses.append(outputs["loss"])
        self.ngraphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        self.ngraphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(("ngraphs", "settings"), [(n, texts) for n, *texts in TASKS.values()], ids=TASKS)
def test_a_compiled_run_has_the_losses_keys_and_identity_of_one_that_is_not(
    ngraphs: int, settings: list[str], config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    seen: dict[str, tuple[list[Tensor], object, list[str], object]] = {}
    watched = {}
    for choice in ("false", "aot_eager"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        watched[choice] = graphs = Graphs()
        cfg = config(*SMALL, *settings, f"compile={choice}", folder=choice)
        summary = train_run(cfg, watchers=[graphs])
        stored = torch.load(tmp_path / choice / "checkpoints" / "last.ckpt", weights_only=True)
        seen[choice] = graphs.losses, summary["identity"], list(stored["state_dict"]), summary["test/neg_elbo"]
    assert seen["aot_eager"] == seen["false"]
    assert watched["false"].ngraphs == [0] * 5
    assert watched["aot_eager"].ngraphs == [ngraphs] * 5  # and none for validations


def test_networks_are_given_back_as_they_were(config: Callable[..., DictConfig]) -> None:
    class Look(Callback):
        compiled: tuple[bool, ...] = ()

        def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
            self.task = pl_module
            self.compiled = tuple(network._compiled_call_impl is not None for network in pl_module.trained_networks())

    look = Look()
    train_run(config(*SMALL, "model=mlp", "compile=eager"), watchers=[look])
    assert look.compiled == (True, True)
    assert not [network for network in look.task.trained_networks() if network._compiled_call_impl is not None]


@pytest.mark.parametrize("choice", ["inductr", 1, "None"])
def test_a_backend_that_there_is_not_is_refused(choice: object, config: Callable[..., DictConfig]) -> None:
    with pytest.raises(ValueError, match=rf"compile={choice} must be true, false or a backend of torch.compile: .*aot"):
        train_run(config(*SMALL, "model=mlp", f"compile={choice}"))


@pytest.mark.parametrize("choice", ["true", "cudagraphs"])
def test_cuda_graphs_without_a_gpu_are_refused(choice: str, config: Callable[..., DictConfig]) -> None:
    with pytest.raises(ValueError, match=r"is not on a GPU; choose compile=false, or compile=inductor") as caught:
        train_run(config(*SMALL, "model=mlp", f"compile={choice}"))
    assert exit_code(caught.value) == 2


PROJECTED = ("task=vaegan", "task/adversaries/discriminator=projected")
STAGED = ("task=staged_vaegan", "model=fastgan", "data.channels=3", "callbacks.quality=null")


@pytest.mark.parametrize("choice", ["true", "cudagraphs"])
@pytest.mark.parametrize("task", [PROJECTED, STAGED], ids=["projected", "staged"])
def test_cuda_graphs_are_refused_where_losses_change(
    task: tuple[str, ...], choice: str, config: Callable[..., DictConfig]
) -> None:
    with pytest.raises(ValueError, match=rf"compile={choice} records .* are not those without; choose comp") as caught:
        train_run(config(*SMALL, *task, "data.image_size=32", f"compile={choice}"))
    assert exit_code(caught.value) == 2


def test_what_torch_cannot_compile_is_a_setting_that_is_wrong() -> None:
    error = BackendCompilerFailed(Compiled, RuntimeError("no compiler"), None)
    known = translate_error(error)
    assert exit_code(known) == 2
    assert "choose compile=false" in str(known)
