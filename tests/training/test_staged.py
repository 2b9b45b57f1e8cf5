"""Training in stages: who is trained when, resumption in each stage, and which checkpoint is the best."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from test_training import rows, same, weights

from vae_lab.data.sample import Sample
from vae_lab.runs.load import load_checkpoint, load_model
from vae_lab.training.run import build_parts, train_run
from vae_lab.training.tasks.staged import StagedVAEGANTask

Compose = Callable[..., DictConfig]
STAGED = (
    "task=staged_vaegan",
    "model=fastgan",
    "likelihood=mse",
    "data.image_size=16",
    "data.channels=3",
    "data.batch_size=8",
    "data.nimages=40",
    "model.nlatent=4",
    "model.encoder.widths=[8,8]",
    "model.encoder.patch=1",
    "model.decoder.widths=[8,8,8]",
    "task.adversaries.discriminator.widths=[8,8,8,8]",
    "task.perceptual.nmaps=1",
    "task.stages.decoder.steps=2",
    "task.stages.encoder.steps=2",
    "task.stages.joint.warmup=1",
    "task.guard.every=2",
    "callbacks.quality.nsamples=4",
)
PARTS = ("model.encoder", "model.decoder", "learner.encoder", "learner.decoder", "adversaries.discriminator")


def staged(config: Compose, *settings: str) -> tuple[StagedVAEGANTask, Sample, list[torch.optim.Optimizer]]:
    data, task, trainer = build_parts(config(*STAGED, "trainer.max_steps=8", *settings), {})
    assert isinstance(task, StagedVAEGANTask)
    task.trainer = trainer
    return task, data.splits.train.__getitems__(slice(8)), task.configure_optimizers()


def moved(task: StagedVAEGANTask, batch: Sample, optimizers: list[torch.optim.Optimizer], step: int) -> set[str]:
    """The parts whose parameters a step changes."""
    before = {name: weight.clone() for name, weight in task.named_parameters()}
    torch.manual_seed(0)
    task.step(batch, step, *optimizers)
    changed = {name for name, weight in task.named_parameters() if not weight.equal(before[name])}
    return {part for part in PARTS if any(name.startswith(part) for name in changed)}


def test_each_stage_trains_its_networks(config: Compose) -> None:
    task, batch, optimizers = staged(config)
    decoder, encoder, joint = {"learner.decoder", "model.decoder"}, {"learner.encoder", "model.encoder"}, set(PARTS)
    adversary = {"adversaries.discriminator"}
    assert moved(task, batch, optimizers, step=0) == decoder | adversary
    assert moved(task, batch, optimizers, step=1) == decoder | adversary
    task.learner.load_state_dict(task.model.state_dict())
    statistics = copy.deepcopy(dict(task.learner.decoder.named_buffers()))
    assert moved(task, batch, optimizers, step=3) == encoder, "frozen, and equal to its average"
    assert same(statistics, dict(task.learner.decoder.named_buffers())), "also its normalisation is frozen"
    task.learner.load_state_dict(task.model.state_dict())
    assert moved(task, batch, optimizers, step=4) == adversary, "the warm-up of the last stage"
    assert moved(task, batch, optimizers, step=5) == joint


def test_a_warm_up_differentiates_nothing_but_adversaries(config: Compose) -> None:
    task, batch, optimizers = staged(config)
    found: list[bool] = []
    task.learner.decoder.register_forward_hook(lambda _module, _given, output: found.append(output.requires_grad))
    for step in (1, 4, 5):  # alone, in the warm-up of the last stage, after it
        task.step(batch, step, *optimizers)
    assert found == [True, False, True]


def test_a_frozen_network_counts_in_no_norm(config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm of no gradients would be on the CPU, and the others on a GPU."""
    task, batch, optimizers = staged(config)
    seen: list[int] = []
    norm = torch.nn.utils.get_total_norm
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda given: [seen.append(len(given)), norm(given)][1])
    for step in (0, 2, 5):  # the decoder and the adversary, the encoder alone, all
        task.step(batch, step, *optimizers)
    assert len(seen) == 5
    assert min(seen) > 0


WITHOUT_A_DETERMINISTIC_GRADIENT = ("AdaptiveAvgPool", "AdaptiveMaxPool", "ReflectionPad", "Bicubic", "GridSampler")
"""Parts of the names of operations for which torch.use_deterministic_algorithms raises on CUDA."""


def test_all_gradients_have_a_deterministic_form_on_a_gpu(config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch, optimizers = staged(
        config, "task.adversaries.discriminator.blur=2.0", "data.image_size=32", "model.encoder.patch=2"
    )
    found: set[str] = set()

    gradients = torch.autograd.grad

    def collect(loss: torch.Tensor, *given: Any, **settings: Any) -> tuple[torch.Tensor, ...]:
        nodes = [loss.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                seen.add(node)
                found.add(node.name())
                nodes += [following for following, _ in node.next_functions]
        return gradients(loss, *given, **settings)

    monkeypatch.setattr(torch.autograd, "grad", collect)
    for step in (0, 2, 5):
        seen: set[object] = set()
        task.step(batch, step, *optimizers)
    assert {name for name in found for part in ("Convolution", "AvgPool") if part in name}, "the graph was walked"
    assert not [name for name in found for part in WITHOUT_A_DETERMINISTIC_GRADIENT if part in name]


def test_the_second_and_the_third_stage_start_from_the_average(config: Compose) -> None:
    task, batch, optimizers = staged(config)
    task.step(batch, 0, *optimizers)
    assert not same(task.learner.state_dict(), task.model.state_dict())
    task.step(batch, 2, *optimizers)
    assert same(task.learner.decoder.state_dict(), task.model.decoder.state_dict())


def test_learning_rates_follow_the_stages(config: Compose) -> None:
    length = ("task.stages.encoder.steps=10", "trainer.max_steps=32")  # 2, 10 and 20 steps
    task, _, optimizers = staged(config, "task.stages.joint.lr=1e-4", *length)
    expected = {
        ("decoder", 0): [4e-4, 0.0, 4e-4],
        ("encoder", 0): [0.0, 1e-3, 0.0],
        ("encoder", 5): [0.0, 5e-4, 0.0],
        ("joint", 0): [0.0, 0.0, 4e-4],
        ("joint", 10): [5e-5, 5e-5, 2e-4],
        ("joint", 20): [0.0, 0.0, 0.0],
    }
    for (name, since), rates in expected.items():
        task.set_learning_rates(name, since, tuple(optimizers))
        assert [one.param_groups[0]["lr"] for one in optimizers] == pytest.approx(rates, abs=1e-12), (name, since)
    constant, _, optimizers = staged(config, "task.stages.joint.lr=1e-4", "task.stages.joint.decay=false", *length)
    constant.set_learning_rates("joint", 10, tuple(optimizers))
    assert [one.param_groups[0]["lr"] for one in optimizers] == pytest.approx([1e-4, 1e-4, 4e-4])


@pytest.mark.parametrize(("stage", "step"), [("encoder", 2), ("joint", 4)])
def test_distortion_and_discrepancy_have_a_weight_for_each_stage(config: Compose, stage: str, step: int) -> None:
    settings = ("task.distortion=2.0", f"task.stages.{stage}.distortion=5.0", f"task.stages.{stage}.mmd=70.0")
    task, batch, optimizers = staged(config, *settings, "task.adversarial_weight=0.0")
    numbers = task.step(batch, step, *optimizers)
    bound = (10 * numbers["distortion"] + numbers["rate"]).mean()
    assert numbers["bound"] == pytest.approx(float(bound))
    assert ("perceptual" in numbers) is (stage == "joint"), "features do not teach the encoder alone"
    assert numbers["mmd"] != 0
    assert numbers["loss"] == pytest.approx(float(bound + 70 * numbers["mmd"] + numbers.get("perceptual", 0.0)))


def test_stages_may_be_empty(config: Compose) -> None:
    task, *_ = staged(config, "task.stages.decoder.steps=0")
    assert [task.stage_at(step) for step in (0, 1, 2, 9)] == [
        ("encoder", 0),
        ("encoder", 1),
        ("joint", 0),
        ("joint", 7),
    ]


@pytest.mark.parametrize("at", [pytest.param(at, marks=[pytest.mark.slow] if at != 4 else []) for at in range(1, 6)])
def test_a_run_resumed_in_any_stage_is_the_uninterrupted_one(
    config: Compose, tmp_path: Path, at: int, made_once: Callable[[str, Callable[[Path], object]], Path]
) -> None:
    """Bit for bit, also across the borders of stages."""
    common = (*STAGED, "trainer.val_check_interval=100", "task.stages.joint.decay=false")  # which looks at max_steps
    whole = made_once("staged", lambda folder: train_run(config("trainer.max_steps=7", *common, f"folder={folder}")))
    train_run(config(f"trainer.max_steps={at}", *common, folder="first"))
    train_run(config("trainer.max_steps=7", f"resume={tmp_path / 'first'}", *common, folder="second"))
    assert same(weights(whole), weights(tmp_path / "second"))
    stored = [
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (whole, tmp_path / "second")
    ]
    assert str(stored[0]["optimizer_states"]) == str(stored[1]["optimizer_states"])
    assert stored[0]["global_step"] == 7


def test_the_best_checkpoint_is_one_of_a_complete_model(config: Compose, tmp_path: Path) -> None:
    """Samples may be best in the first stage, whose encoder is untrained."""
    common = (*STAGED, "trainer.val_check_interval=1", "task.stages.joint.lr=0.5", "task.stages.joint.warmup=0")
    train_run(config(*common, "trainer.max_steps=3"))
    assert load_checkpoint(tmp_path / "run", "best")["global_step"] == 3, "the last one, as there is no better"
    train_run(config(*common, "trainer.max_steps=7", f"resume={tmp_path / 'run'}", folder="second"))
    table = {int(row["step"]): float(row["val/kid_lite2"]) for row in rows(tmp_path / "second") if row["val/kid_lite2"]}
    best = load_checkpoint(tmp_path / "second", "best")["global_step"]
    assert best == min((step for step in table if step >= 4), key=lambda step: table[step])
    assert load_model(tmp_path / "second").nlatent == 4


def test_samples_and_reconstructions_are_measured_at_each_validation(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="vae_lab")
    from vae_lab.evaluation.metrics.reconstruction import reconstruct_set
    from vae_lab.evaluation.metrics.two_sample import kernel_distance
    from vae_lab.features.pyramid import FeaturePyramid
    from vae_lab.runs.inference import every_pixel
    from vae_lab.system.randomness import seeded

    wild = "task.stages.decoder.lr=0.1"  # so that images differ
    cfg = config(*STAGED, "trainer.max_steps=2", "trainer.val_check_interval=2", wild)
    summary = train_run(cfg)
    data, *_ = build_parts(cfg, {})
    model = load_model(tmp_path / "run", "last")
    with seeded("quality", 0), torch.no_grad():
        samples = model.generative(model.prior().sample((4,))).mean
    pyramid = FeaturePyramid("lite2", "x")
    real, ours = (pyramid.embed(images) for images in (every_pixel(data.splits.val), samples))
    (row,) = [row for row in rows(tmp_path / "run") if row["val/kid_lite2"]]
    assert float(row["val/kid_lite2"]) == pytest.approx(1000 * kernel_distance(real, ours), rel=1e-3)
    decoded = pyramid.embed(reconstruct_set(model, data.splits.val).decoded)
    assert float(row["val/rkid_lite2"]) == pytest.approx(1000 * kernel_distance(real, decoded), rel=1e-3)
    assert float(row["val/rkid_lite2"]) != pytest.approx(float(row["val/kid_lite2"]), rel=2e-3)
    assert isinstance(summary["test/kid_lite2"], float)
    assert isinstance(summary["test/rkid_lite2"], float)
    assert any(
        "test/kid_lite2" in record.getMessage() and "lower is better" in record.getMessage()
        for record in caplog.records
    )


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown stage": (("+task.stages.third={steps: 1, lr: 1.0}",), "must have the stages decoder, encoder, joint"),
    "an unknown setting": (("+task.stages.joint.rate=1.0",), r"task\.stages\.joint\.rate is unknown"),
    "a length": (("task.stages.encoder.steps=-1",), r"task\.stages\.encoder\.steps must be"),
    "a weight": (("task.stages.joint.distortion=-1.0",), r"task\.stages\.joint\.distortion must be"),
    "a discrepancy": (("task.stages.joint.mmd=-1.0",), r"task\.stages\.joint\.mmd must be"),
    "a half-life": (("task.ema_halflife=0.0",), r"task\.ema_halflife must be"),
    "a ladder": (("model=ladder_mlp",), "choose model=fastgan"),
    "another objective": (("objective=iwae",), "choose objective=elbo"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_told_in_a_sentence(config: Compose, case: str) -> None:
    settings, sentence = WRONG[case]
    shape = [one for one in STAGED if not one.startswith("model.")] if case == "a ladder" else STAGED
    with pytest.raises(Exception, match=sentence):
        train_run(config(*shape, *settings))


@pytest.mark.slow
def test_a_conditional_model_trains_in_stages(config: Compose, tmp_path: Path) -> None:
    settings: Any = (*STAGED, "data=digits", "model.nclasses=10", "data.image_size=16", "data.batch_size=8")
    settings = [one for one in settings if not one.startswith(("data.channels", "data.nimages"))]
    train_run(config(*settings, "trainer.max_steps=6"))
    assert load_model(tmp_path / "run").nclasses == 10
