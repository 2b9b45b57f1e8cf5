"""Seconds per training step: the real `train_run` path against a plain PyTorch loop, and others beside it.

    make bench                                             MNIST where it is in ../shared/data, else digits
    make bench ARGS="--batch-size 64 --steps 600"

The real path (W&B offline, metrics.csv, progress line, random numbers from counters) and the plain loop (same network,
batches cut from a tensor in memory, channels-last, fused Adam, same precision) take turns every ten batches inside one
real training run, so that both meet the same moods of the machine. The ratio is that of the medians.
"""

import argparse
import contextlib
import importlib
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional

from vae_lab.data.images import ImageSet
from vae_lab.models.vae import VAE
from vae_lab.runs.provenance import processor_name
from vae_lab.system.config_dir import CONF
from vae_lab.system.devices import fastest_precision
from vae_lab.training.run import train_run

BLOCK = 10
SHARED = Path(__file__).parents[2] / "shared" / "data"


def config(*overrides: str) -> DictConfig:
    """Return the composed training config."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


class PlainLoop:
    """What a person would write without any framework."""

    def __init__(self, images: ImageSet, batch_size: int, precision: str, device: str = "cpu") -> None:
        model: VAE = instantiate(config(*data_overrides()).model, _convert_="all")
        self.model = model.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=5e-4, fused=True)
        self.pixels = images.pixels(slice(None)).to(device)
        self.order = torch.randperm(len(images), device=device)
        self.places = torch.arange(batch_size, device=device)
        self.batch_size = batch_size
        self.precision = precision
        self.steps = 0

    def run(self, steps: int) -> float:
        """Return the seconds that some steps take."""
        wait_for(self.pixels.device)
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        wait_for(self.pixels.device)
        return time.perf_counter() - start

    def step(self) -> None:
        """Take a step."""
        places = (self.places + self.steps * self.batch_size) % len(self.order)
        self.optimizer.zero_grad()
        self.loss(self.order[places]).backward()
        self.optimizer.step()
        self.steps += 1

    def loss(self, rows: Tensor) -> Tensor:
        """Return the loss of the images at some rows."""
        image = self.pixels[rows].to(torch.float32, memory_format=torch.channels_last).div_(255)
        mixed = self.precision == "bf16-mixed"  # each weight is used once, so that a cache of casts would gain nothing
        with torch.autocast(image.device.type, torch.bfloat16, enabled=mixed, cache_enabled=False):
            return seed_loss(self.model, image)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Alternate(Callback):
    """Lets the plain loop take a turn after every `BLOCK` batches of a real run, and times both."""

    ours: ClassVar[list[float]] = []
    theirs: ClassVar[list[float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the plain loop."""
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self.plain = PlainLoop(data.splits.train, data.batch_size, str(trainer.precision))
        self.plain.run(BLOCK)
        self.mark = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Time a block of each."""
        if trainer.global_step % BLOCK == 0:
            self.ours.append((time.perf_counter() - self.mark) / BLOCK)
            self.theirs.append(self.plain.run(BLOCK) / BLOCK)
            self.mark = time.perf_counter()


def data_overrides() -> list[str]:
    """Return which data the benchmark uses."""
    return ["data=mnist", f"data.root={SHARED}"] if (SHARED / "MNIST").is_dir() else ["data=digits"]


def seed_loss(model: VAE, image: Tensor) -> Tensor:
    """Return summed squared error plus KL, averaged over the batch, written out by hand."""
    mean, log_variance = model.encoder(image).float().chunk(2, 1)
    z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    reconstruction = torch.sigmoid(model.decoder(z).float())
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return ((reconstruction - image).square().sum() + divergence) / len(image)


class NaiveDataset(Dataset[Tensor]):
    """One image at a time through a Python transform, as tutorials have it."""

    def __init__(self, images: ImageSet) -> None:
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


def naive_lightning(images: ImageSet, batch_size: int, steps: int) -> float:
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
    model: VAE = instantiate(config(*data_overrides()).model, _convert_="all")
    start = time.perf_counter()
    trainer.fit(NaiveModule(model), loader)
    return (time.perf_counter() - start) / steps


def pythae(images: ImageSet, batch_size: int, steps: int) -> float:
    """Return the seconds per step of pythae's trainer with the same network, likelihood and data.

    Raises:
        ImportError: if pythae is not installed.
    """
    models, nn, trainers, datasets, outputs = (
        importlib.import_module(f"pythae.{name}")
        for name in ("models", "models.nn", "trainers", "data.datasets", "models.base.base_utils")
    )
    seed: VAE = instantiate(config(*data_overrides()).model, _convert_="all")

    class Encoder(nn.BaseEncoder):
        def forward(self, x: Tensor) -> object:
            mean, log_variance = seed.encoder(x).chunk(2, 1)
            return outputs.ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(nn.BaseDecoder):
        def forward(self, z: Tensor) -> object:
            return outputs.ModelOutput(reconstruction=torch.sigmoid(seed.decoder(z)))

    encoder, decoder = Encoder(), Decoder()
    encoder.network, decoder.network = seed.encoder, seed.decoder
    model = models.VAE(models.VAEConfig(input_dim=(1, 28, 28), latent_dim=8), encoder, decoder)
    data = images.__getitems__(slice(batch_size * steps)).image.contiguous()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
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
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    for noisy in ("lightning.pytorch", "pythae"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    precision = fastest_precision("cpu") if arguments.precision == "auto" else arguments.precision
    size, steps = arguments.batch_size, arguments.steps
    overrides = [*data_overrides(), f"data.batch_size={size}", f"trainer.precision={precision}"]
    overrides += [f"trainer.max_steps={steps}", "trainer.val_check_interval=1000000", "trainer.accelerator=cpu"]
    overrides += ["logger.wandb.mode=offline", "+callbacks.bench._target_=benchmarks.step.Alternate"]
    with tempfile.TemporaryDirectory() as folder:
        train_run(config(*overrides, f"folder={folder}"))
    images = instantiate(config(*data_overrides()).data, _convert_="all").splits.train
    ours, theirs = (statistics.median(times[1:]) for times in (Alternate.ours, Alternate.theirs))
    line = f"{overrides[0]}, batch {size}, {precision}, {torch.get_num_threads()} threads, {processor_name()}"
    print(f"\n{line}: medians of {len(Alternate.ours) - 1} blocks of {BLOCK} steps each, taking turns")
    report("plain loop", size, lambda: theirs)
    report("vae_lab.train", size, lambda: ours)
    print(f"{'ratio of vae_lab.train to plain loop':36s} {ours / theirs:7.3f} (limit 1.05)")
    other = "32-true" if precision == "bf16-mixed" else "bf16-mixed"
    report(f"plain loop, {other}", size, lambda: PlainLoop(images, size, other).run(100) / 100)
    report("naive Lightning, 32-true", size, lambda: naive_lightning(images, size, 100))
    report("pythae, 32-true", size, lambda: pythae(images, size, 100))


if __name__ == "__main__":
    from benchmarks.step import main as run  # so that Hydra's Alternate and this one are the same class

    run()
