"""Optimizers: each trains, and each parameter is treated as its kind asks."""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.optim import Adam, Muon, Optimizer

from vae_lab.models.vae import VAE
from vae_lab.system.config_dir import CONF
from vae_lab.training.checks import check_settings
from vae_lab.training.distributed.gradients import set_gradients
from vae_lab.training.optimizers import MuonWithAdamW, make_adamw
from vae_lab.training.run import train_run

Compose = Callable[..., DictConfig]
CHOICES = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
TASKS = {"vae": [], "vaegan": ["task=vaegan", "task.adversaries.discriminator.network.widths=[8,8,8]", "task.warmup=5"]}


def made(cfg: DictConfig) -> tuple[VAE, Optimizer]:
    model = instantiate(cfg.model, _convert_="all")
    return model, instantiate(cfg.optimizer, _convert_="all")(model.named_parameters())


@pytest.mark.parametrize(("choice", "task"), [*((choice, "vae") for choice in CHOICES), ("muon", "vaegan")])
def test_every_optimizer_lowers_the_loss(choice: str, task: str, config: Compose, tmp_path: Path) -> None:
    settings = ["trainer.max_steps=20", "trainer.val_check_interval=20", "model=mlp", "model.encoder.width=32"]
    assert train_run(config(f"optimizer={choice}", *settings, *TASKS[task]))["status"] == "completed"
    with (tmp_path / "run/metrics.csv").open() as file:
        losses = [float(row["train/distortion"]) for row in csv.DictReader(file) if row["train/distortion"]]
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])


DECAYED = {
    ("model=conv", "likelihood=sigma_vae"): {"weight"},
    ("model=resnet", "model.encoder.widths=[8,8]", "prior=vamp"): {"weight"},
    ("model=mlp", "model.encoder.width=8", "prior=vamp"): {"weight"},
    ("model=ladder", "likelihood=logistic_mixture"): {"weight"},
}


@pytest.mark.parametrize("choices", DECAYED, ids=" ".join)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_of_layers_alone_decay(optimizer: str, choices: tuple[str, ...], config: Compose) -> None:
    model, made_of = made(config(*choices, f"optimizer={optimizer}", "optimizer.weight_decay=0.1"))
    decays = {name: group["weight_decay"] for group in made_of.param_groups for name in group["param_names"]}
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    weights = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, layers)}
    assert {name for name, decay in decays.items() if decay == 0.1} == weights
    others = {name for name, decay in decays.items() if decay == 0.0}
    assert others == dict(model.named_parameters()).keys() - weights
    assert others, "biases at least"


def test_muon_moves_the_matrices_and_adamw_the_rest(config: Compose) -> None:
    model, optimizer = made(config("model=conv", "optimizer=muon"))
    by_muon = {name for group in optimizer.param_groups if "ns_steps" in group for name in group["param_names"]}
    assert by_muon == {f"{n}.weight" for n, module in model.named_modules() if isinstance(module, nn.Linear)}
    everything = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(everything) == sorted(name for name, _ in model.named_parameters())


MUON: dict[str, Any] = {
    "lr": 0.1, "weight_decay": 0.01, "momentum": 0.95, "nesterov": True, "ns_steps": 5,
    "adjust_lr_fn": "match_rms_adamw", "betas": (0.9, 0.999), "eps": 1e-8, "fused": False,
}  # fmt: skip


def stepped(model: nn.Module, optimizers: list[Optimizer], nsteps: int) -> None:
    for step in range(nsteps):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_the_steps_are_those_of_torch_s_two_optimizers() -> None:
    ours, theirs = network(), network()
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim == 2]
    biases = [parameter for parameter in theirs.parameters() if parameter.ndim == 1]
    keys = ("lr", "weight_decay", "momentum", "nesterov", "ns_steps", "adjust_lr_fn")
    pair = [Muon(matrices, **{key: MUON[key] for key in keys}), torch.optim.AdamW(biases, lr=0.1, weight_decay=0.0)]
    stepped(ours, [MuonWithAdamW(ours.named_parameters(), **MUON)], 3)
    stepped(theirs, pair, 3)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_muon_goes_on_from_a_stored_state() -> None:
    whole, resumed = network(), network()
    stepped(whole, [MuonWithAdamW(whole.named_parameters(), **MUON)], 3)
    first = MuonWithAdamW(resumed.named_parameters(), **MUON)
    stepped(resumed, [first], 1)
    second = MuonWithAdamW(resumed.named_parameters(), **{**MUON, "lr": 9.0})
    second.load_state_dict(first.state_dict())
    for step in (1, 2):
        generator = torch.Generator().manual_seed(step)
        for parameter in resumed.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_closure_is_called_once_with_gradients() -> None:
    model = network()
    optimizer = MuonWithAdamW(model.named_parameters(), **MUON)
    calls = itertools.count(1)

    def closure() -> int:
        model(torch.ones(2, 3)).sum().backward()
        return next(calls)

    assert optimizer.step(closure) == 1
    assert next(calls) == 2


SPATIAL = ("model=resnet", "model.encoder.spatial=true", "model.nlatent=16")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["optimizer=muon", *SPATIAL], "Muon updates .* lacks; choose optimizer=adamw"),
        (["optimizer=adamw", "optimizer.lr=-1"], "Invalid learning rate: -1"),
        (["optimizer=muon", "optimizer.adjust_lr_fn=nothing"], "nothing is not supported"),
        (["optimizer=sgd", "optimizer.momentum=0"], "Nesterov momentum requires a momentum"),
        (["optimizer=adamw", "+optimizer.beta3=1"], "beta3"),
    ],
)
def test_what_an_optimizer_does_not_take_is_told_before_the_images_are_read(
    overrides: list[str], sentence: str, config: Compose
) -> None:
    with pytest.raises(ValueError, match=f"^optimizer: .*{sentence}"):
        check_settings(config(*overrides))


def test_any_optimizer_of_torch_takes_what_a_task_gives() -> None:
    model = network()
    assert Adam(model.named_parameters()).param_groups[0]["param_names"][0] == "0.weight"
    assert len(make_adamw(nn.Linear(2, 2, bias=False).named_parameters(), weight_decay=0.1).param_groups) == 1


def test_gradients_get_the_memory_layout_of_their_parameters() -> None:
    """On CUDA, the fused optimizers refuse others; torch.autograd.grad returns whichever the operations make."""
    start = torch.rand(4, 3, 2, 2)
    parameter = nn.Parameter(start.contiguous(memory_format=torch.channels_last))
    given = torch.autograd.grad((parameter.flatten(1) ** 2).sum(), parameter)[0]
    assert given.stride() != parameter.stride()
    set_gradients([parameter], (parameter.flatten(1) ** 2).sum())
    assert parameter.grad is not None
    assert parameter.grad.stride() == parameter.stride()
    assert parameter.grad.equal(2 * parameter)
