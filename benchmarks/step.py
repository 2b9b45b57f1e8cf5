"""Seconds per training step: the real `train` path against a plain PyTorch loop, and others beside it.

    make bench                                             MNIST where it is in ../shared/data or data/, else digits
    make bench ARGS="--batch-size 64 --steps 200 --rounds 5"

The real path (W&B offline, metrics.csv, progress line, random numbers from counters) and the plain loop (same network,
batches cut from a tensor in memory, channels-last, fused Adam, same precision) take turns in one process; each turn
measures the seconds from the first batch to the last, without validation. The ratio is the median of the rounds'.
"""

import argparse
import importlib
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from lightning import LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional

from vae_lab.conf_folder import CONF
from vae_lab.data.images import Images
from vae_lab.models.vae import VAE
from vae_lab.trainer import fastest_precision
from vae_lab.training import build, train

SHARED = Path(__file__).parents[2] / "shared" / "data"


def config(*overrides: str) -> DictConfig:
    """Return the composed training config."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


def real_path(overrides: list[str], steps: int) -> float:
    """Return the seconds per step of the training that users run."""
    with tempfile.TemporaryDirectory() as folder:
        summary = train(config(*overrides, f"folder={folder}", f"trainer.max_steps={steps}"))
    return summary["seconds"]["training"] / summary["steps"]


def plain_loop(model: VAE, images: Images, batch_size: int, precision: str, steps: int) -> float:
    """Return the seconds per step of what a person would write without any framework."""
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)
    pixels = images.pixels(slice(None))
    order = torch.randperm(len(images))
    start = time.perf_counter()
    for step in range(steps):
        rows = order[torch.arange(step * batch_size, (step + 1) * batch_size) % len(order)]
        image = pixels[rows].to(torch.float32, memory_format=torch.channels_last).div_(255)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = seed_loss(model, image)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / steps


def seed_loss(model: VAE, image: Tensor) -> Tensor:
    """Return summed squared error plus KL, averaged over the batch, written out by hand."""
    mean, log_variance = model.encoder(image).float().chunk(2, 1)
    z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    reconstruction = torch.sigmoid(model.decoder(z).float())
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return ((reconstruction - image).square().sum() + divergence) / len(image)


class NaiveDataset(Dataset[Tensor]):
    """One image at a time through a Python transform, as tutorials have it."""

    def __init__(self, images: Images) -> None:
        self.images = [functional.to_pil_image(pixels) for pixels in images.pixels(slice(2000))]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """Return one image."""
        return functional.to_tensor(self.images[index])


class NaiveModule(LightningModule):
    """A tutorial's LightningModule: five metrics logged at every step."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the loss."""
        loss = seed_loss(self.model, batch)
        self.log_dict({f"train/metric{i}": loss.detach() for i in range(5)}, prog_bar=False)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=5e-4)


def naive_lightning(model: VAE, images: Images, batch_size: int, steps: int) -> float:
    """Return the seconds per step of Lightning with a DataLoader and a transform for each image, in float32."""
    loader = DataLoader(NaiveDataset(images), batch_size, shuffle=True, drop_last=True)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.fit(NaiveModule(model), loader)
    return (time.perf_counter() - start) / steps


def pythae(images: Images, batch_size: int, steps: int) -> float:
    """Return the seconds per step of pythae's own trainer loop on its own convolutional MNIST network.

    Raises:
        ImportError: if pythae is not installed.
    """
    models, networks, trainers, datasets = (
        importlib.import_module(f"pythae.{name}")
        for name in ("models", "models.nn.benchmarks.mnist", "trainers", "data.datasets")
    )
    settings = models.VAEConfig(input_dim=(1, 28, 28), latent_dim=8)
    model = models.VAE(settings, networks.Encoder_Conv_VAE_MNIST(settings), networks.Decoder_Conv_AE_MNIST(settings))
    data = images.__getitems__(slice(batch_size * steps)).image.contiguous()
    with tempfile.TemporaryDirectory() as folder:
        plan = trainers.BaseTrainerConfig(
            output_dir=folder, num_epochs=1, per_device_train_batch_size=batch_size, learning_rate=5e-4, no_cuda=True
        )
        dataset = datasets.BaseDataset(data, torch.zeros(len(data)))
        trainer = trainers.BaseTrainer(model, dataset, training_config=plan)
        trainer.prepare_training()
        start = time.perf_counter()
        trainer.train_step(epoch=1)
        return (time.perf_counter() - start) / (len(data) // batch_size)


def report(name: str, batch_size: int, measure: Callable[[], float]) -> None:
    """Print one line beside the ratio."""
    try:
        seconds = measure()
    except ImportError as error:
        print(f"{name:36s} not installed here ({error})")
        return
    print(f"{name:36s} {1e3 * seconds:7.2f} ms/step {batch_size / seconds:8.0f} images/s")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    precision = fastest_precision("cpu") if arguments.precision == "auto" else arguments.precision
    size, steps = arguments.batch_size, arguments.steps
    data = ["data=mnist", f"data.root={SHARED}"] if (SHARED / "MNIST").is_dir() else ["data=digits"]
    overrides = [*data, f"data.batch_size={size}", f"trainer.precision={precision}", "trainer.accelerator=cpu"]
    overrides += ["logger.wandb.mode=offline", "trainer.val_every=1000000"]
    cfg = config(*overrides, "folder=/tmp/unused", "logger=csv")
    module, task, _ = build(cfg, {})
    images = module.parts.train
    plain_loop(task.model, images, size, precision, 20)
    ratios, ours, theirs = [], [], []
    for _ in range(arguments.rounds):
        theirs.append(plain_loop(task.model, images, size, precision, steps))
        ours.append(real_path(overrides, steps))
        ratios.append(ours[-1] / theirs[-1])
        print(f"plain loop {1e3 * theirs[-1]:.2f} ms/step, vae_lab.train {1e3 * ours[-1]:.2f}, ratio {ratios[-1]:.3f}")
    print(f"\n{data[0]}, batch {size}, {precision}, {torch.get_num_threads()} threads, medians of {len(ratios)} rounds")
    report("plain loop", size, lambda: statistics.median(theirs))
    report("vae_lab.train", size, lambda: statistics.median(ours))
    print(f"{'ratio of vae_lab.train to plain loop':36s} {statistics.median(ratios):7.3f} (limit 1.05)")
    other = "32-true" if precision == "bf16-mixed" else "bf16-mixed"
    report(f"plain loop, {other}", size, lambda: plain_loop(task.model, images, size, other, steps))
    report("naive Lightning, 32-true", size, lambda: naive_lightning(task.model, images, size, steps))
    report("pythae (a smaller network), 32-true", size, lambda: pythae(images, size, steps))


if __name__ == "__main__":
    main()
