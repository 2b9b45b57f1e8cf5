"""Training against adversaries: who moves whom, what is kept, and what the guard does about a collapse."""

import copy
import csv
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from omegaconf import DictConfig
from test_training import rows, same, weights

from vae_lab.data.sample import Sample
from vae_lab.errors import DataError
from vae_lab.runs.load import load_model
from vae_lab.training.loggers.csv import MetricsTable
from vae_lab.training.run import build_parts, train_run
from vae_lab.training.tasks.vaegan import VAEGANTask

Compose = Callable[..., DictConfig]
QUICK = ("task.warmup=2", "task.adversaries.discriminator.network.widths=[8,8,8]", "model.encoder.widths=[8,8,8]")
VAEGAN = ("task=vaegan", *QUICK)
CVAEGAN = ("task=cvaegan", "data=digits", "model.nclasses=10", "task.adversaries.classifier.network.widths=[8,8,8]")
CVAEGAN = (*CVAEGAN, *QUICK)
WARM = 4
"""Steps after which the warm-up is over."""
TASKS = pytest.mark.parametrize("settings", [VAEGAN, CVAEGAN], ids=["vaegan", "cvaegan"])


def played(config: Compose, *settings: str) -> tuple[VAEGANTask, Sample, list[torch.optim.Optimizer]]:
    """A task past its warm-up, a batch and optimizers."""
    data, task, trainer = build_parts(config(*settings), {})
    assert isinstance(task, VAEGANTask)
    task.trainer = trainer
    batch = data.splits.train.__getitems__(slice(8))
    return task, batch, task.configure_optimizers()[0]


def moved(task: VAEGANTask, batch: Sample, optimizers: list[torch.optim.Optimizer], step: int = WARM) -> set[str]:
    """The parts whose parameters a step changes."""
    before = {name: weight.clone() for name, weight in task.named_parameters()}
    torch.manual_seed(0)
    task.step(batch, step, *optimizers)
    return {".".join(name.split(".")[:2]) for name, weight in task.named_parameters() if not weight.equal(before[name])}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def still(optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["lr"] = 0.0


@TASKS
def test_every_weighted_term_trains_the_decoder(config: Compose, settings: tuple[str, ...]) -> None:
    task, batch, _ = played(config, *settings)
    terms, shown = task.forward_batch(batch, WARM)
    judgements = {name: adversary(shown, 0) for name, adversary in task.adversaries.items()}
    losses = task.model_losses(terms, shown, judgements)
    found = {"distortion": terms.distortion.mean(), "bound": losses.bound}
    for name, judgement in judgements.items():
        found[f"{name} feature_matching"] = judgement.feature_matching.mean()
        found[f"{name} generator_loss"] = judgement.generator_loss
    decoder = list(task.learner.decoder.parameters())
    for name, loss in found.items():
        gradients = torch.autograd.grad(loss, decoder, retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients), name


@TASKS
def test_adversaries_and_model_never_move_each_other(config: Compose, settings: tuple[str, ...]) -> None:
    task, batch, optimizers = played(config, *settings)
    adversaries = {f"adversaries.{name}" for name in task.adversaries}
    learner = {"learner.encoder", "learner.decoder"}
    average = {"model.encoder", "model.decoder"}
    assert moved(task, batch, optimizers) == adversaries | learner | average
    still(optimizers[0])
    assert moved(task, batch, optimizers) - average == adversaries
    for optimizer in optimizers[1:]:
        still(optimizer)
    assert moved(task, batch, optimizers) - average == set()
    optimizers[0].param_groups[0]["lr"] = 1e-3
    assert moved(task, batch, optimizers) == learner | average
    assert all(weight.grad is None for weight in task.parameters()), "what is left over would be added to the next step"


def test_the_adversarial_loss_does_not_train_the_encoder(config: Compose) -> None:
    gradients = []
    for adversarial_ratio in (0.0, 100.0):
        task, batch, optimizers = played(config, *VAEGAN, f"task.adversarial_ratio={adversarial_ratio}")
        before = copy.deepcopy(task.learner.state_dict())
        torch.manual_seed(0)
        optimizers[0] = torch.optim.SGD(task.learner.parameters(), lr=1e-3)
        task.step(batch, WARM, *optimizers)
        gradients.append({name: weight - before[name] for name, weight in task.learner.state_dict().items()})
    for name, change in gradients[0].items():
        assert change.equal(gradients[1][name]) == name.startswith("encoder"), name


def test_the_pull_is_as_strong_as_asked_for_inside_its_bounds(config: Compose) -> None:
    for settings, ratio, weight in (
        (("task.adversarial_ratio=0.25",), 0.25, None),
        (("task.weight_bounds=[0.0,0.5]",), None, 0.5),
        (("task.weight_bounds=[1e7,1e8]",), None, 1e7),
    ):
        task, batch, optimizers = played(config, *VAEGAN, *settings)
        task.step(batch, 2 * WARM, *optimizers)
        if ratio is not None:
            assert task.notes["gradient_ratio"].item() == pytest.approx(ratio, rel=1e-3)
        if weight is not None:
            assert task.notes["adversarial_weight"].item() == pytest.approx(weight)


def test_adversaries_learn_alone_at_first(config: Compose) -> None:
    with_adversaries, batch, optimizers = played(config, *VAEGAN)
    without, _, others = played(
        config, *VAEGAN, "task.adversarial_ratio=0.0", "task.adversaries.discriminator.feature_matching=0.0"
    )
    for task, optimizer in ((with_adversaries, optimizers), (without, others)):
        assert "adversaries.discriminator" in moved(task, batch, optimizer, step=0)
    assert same(with_adversaries.learner.state_dict(), without.learner.state_dict())


def test_the_average_follows_the_learner(config: Compose) -> None:
    task, batch, optimizers = played(config, *VAEGAN, "task.ema_decay=0.5")
    before = {name: weight.clone() for name, weight in task.model.named_parameters()}
    task.step(batch, 100, *optimizers)
    for name, weight in task.learner.named_parameters():
        torch.testing.assert_close(task.model.get_parameter(name), (before[name] + weight) / 2)


@TASKS
def test_a_resumed_run_is_the_uninterrupted_one(config: Compose, tmp_path: Path, settings: tuple[str, ...]) -> None:
    """Also in what it goes back to: the guard is made to find fault after the resumption."""
    target = "vae_lab.adversarial.diffaugment.DiffAugment"
    augment = f"{{_target_: {target}, colour: 1.0, translation: 0.2, cutout: 0.5, flip: true}}"
    common = (*settings, "trainer.val_check_interval=100", "task.adversaries.discriminator.r1_every=3")
    common = (*common, "task.guard.every=2", "task.guard.patience=3", "task.guard.spread=1.0")
    common = (*common, f"task.adversaries.discriminator.augment={augment}")
    train_run(config("trainer.max_steps=13", *common, folder="whole"))
    train_run(config("trainer.max_steps=7", *common, folder="first"))
    resumed = train_run(config("trainer.max_steps=13", f"resume={tmp_path / 'first'}", *common, folder="second"))
    assert resumed["steps"] == 13
    collapses = [float(row["train/ncollapses"]) for row in rows(tmp_path / "whole") if row["train/loss"]]
    assert collapses[8:10] == [0, 1]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "second"))
    stored = [torch.load(tmp_path / n / "checkpoints/last.ckpt", weights_only=True) for n in ("whole", "second")]
    assert str(stored[0]["optimizer_states"]) == str(stored[1]["optimizer_states"])
    assert len(stored[0]["optimizer_states"]) == (3 if "task=cvaegan" in settings else 2)
    expected = {row["step"]: row["train/loss"] for row in rows(tmp_path / "whole")}
    assert {row["step"]: row["train/loss"] for row in rows(tmp_path / "second")}.items() <= expected.items()


def test_steps_are_batches_however_many_optimizers(config: Compose, tmp_path: Path) -> None:
    summary = train_run(config(*CVAEGAN, "trainer.max_steps=5", "trainer.val_check_interval=2", "schedule=one_cycle"))
    table = rows(tmp_path / "run")
    assert summary["steps"] == 5
    assert [row["step"] for row in table if row["train/loss"]] == ["1", "2", "3", "4", "5"]
    assert [row["step"] for row in table if row["val/neg_elbo"]] == ["2", "4", "5"]
    assert float(table[3]["train/lr"]) < float(table[2]["train/lr"]), "a cycle of 5 batches is on its way down"


def test_what_a_run_folder_gives_back_is_the_average(config: Compose, tmp_path: Path) -> None:
    train_run(config(*VAEGAN, "trainer.max_steps=6"))
    last, best = weights(tmp_path / "run"), weights(tmp_path / "run", "best")
    assert same(last, best), "an ELBO cannot choose among samples"
    loaded = load_model(tmp_path / "run").state_dict()
    for name, weight in loaded.items():
        assert weight.equal(last[f"model.{name}"]), name
    assert not all(weight.equal(last[f"learner.{name}"]) for name, weight in loaded.items())


GUARDED = ("task.guard.every=10", "task.guard.patience=2", "task.warmup=20", "trainer.max_steps=80")
GUARDED = (*GUARDED, "trainer.val_check_interval=80", "optimizer.lr=2e-3", "task.adversary_optimizer.lr=2e-3")


def test_a_collapse_is_caught_and_recovered_from(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For 20 batches of a game that was good, the discriminator's steps are far too long."""
    data, task, trainer = build_parts(
        config(*VAEGAN, *GUARDED, "trainer.max_steps=140", "trainer.val_check_interval=140"), {}
    )
    assert isinstance(task, VAEGANTask)
    logger = MetricsTable(tmp_path / "metrics.csv")
    trainer.loggers = [logger]

    class Spoil(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            trainer.optimizers[1].param_groups[0]["lr"] = 10.0 if 70 <= trainer.global_step < 90 else 2e-3

    trainer.callbacks.append(Spoil())  # pyright: ignore[reportAttributeAccessIssue]
    with caplog.at_level(logging.WARNING, logger="vae_lab"):
        trainer.fit(task, datamodule=data)
    logger.save()
    said = [record.getMessage() for record in caplog.records if "restored the weights of batch" in record.getMessage()]
    assert said
    assert int(re.findall(r"weights of batch (\d+)", said[0])[0]) >= 60
    assert "multiplied the adversarial weight by 0.5" in said[0]
    table = [row for row in read(tmp_path / "metrics.csv") if row["train/loss"]]
    worst, final = (max(float(row["train/discriminator_loss"]) for row in table[70:90]), table[-1])
    assert float(final["train/discriminator_loss"]) < 5 < worst
    assert float(final["train/spread"]) > 0.2
    assert float(final["train/ncollapses"]) == len(said)
    assert float(final["train/adversarial_scale"]) == 0.5 ** len(said)


def test_the_guard_is_silent_on_a_healthy_run(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="vae_lab"):
        train_run(config(*VAEGAN, *GUARDED))
    assert not [record.getMessage() for record in caplog.records if "batch" in record.getMessage()]
    final = [row for row in rows(tmp_path / "run") if row["train/loss"]][-1]
    assert (float(final["train/ncollapses"]), float(final["train/adversarial_scale"])) == (0, 1)


def test_recovery_brings_back_weights_and_moments_and_keeps_learning_rates(config: Compose) -> None:
    task, batch, optimizers = played(config, *VAEGAN)
    task.step(batch, WARM, *optimizers)
    task.snapshot.take(WARM + 1, optimizers)
    kept = task.snapshot.state
    assert kept is not None
    before = copy.deepcopy(task.state_dict())
    for _ in range(2):
        task.step(batch, WARM, *optimizers)
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = 0.123
    assert task.snapshot.restore(optimizers) == WARM + 1
    names = [name for name in before if not name.startswith("guard.")]
    assert all(before[name].equal(task.state_dict()[name]) for name in names)
    assert str(optimizers[0].state_dict()["state"]) == str(kept["optimizers"][0])
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [0.123, 0.123]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("task=cvaegan",), "requires at least two classes"),
        (("task=vaegan", "objective=iwae"), "choose objective=elbo"),
        (("task=vaegan", "task.weight_bounds=[2.0,1.0]"), r"task\.weight_bounds"),
        (("task=vaegan", "task.warmup=0"), r"task\.warmup"),
        (("task=vaegan", "task.adversaries.discriminator.r1=-1.0"), r"discriminator\.r1"),
        (("task=vaegan", "task/perceptual=lpips", "task.perceptual.backbone=none"), "alex, vgg, squeeze"),
    ],
    ids=str,
)
def test_settings_are_checked_before_training(config: Compose, settings: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        train_run(config(*settings))


def test_lpips_without_its_weights_is_a_clear_error(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Exception, match=r"vgg16-397923af\.pth.*task/perceptual=none") as raised:
        train_run(config("task=vaegan", "task/perceptual=lpips"))
    causes: list[Any] = [raised.value, raised.value.__cause__]
    assert any(isinstance(cause, DataError) for cause in causes)


def test_a_run_against_other_adversaries_is_not_resumed(config: Compose, tmp_path: Path) -> None:
    train_run(config(*VAEGAN, folder="first"))
    with pytest.raises(ValueError, match=r"that run had task.adversarial_ratio=\S+ \(here 2\)"):
        train_run(config(*VAEGAN, "task.adversarial_ratio=2.0", f"resume={tmp_path / 'first'}", folder="second"))
