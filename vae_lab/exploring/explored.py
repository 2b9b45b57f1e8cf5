"""The run that a page shows: its model and images, and what is computed from them once."""

from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.data.datamodule import ImageData
from vae_lab.data.images import ImageSet
from vae_lab.detection.calibration import Calibration, load_detector
from vae_lab.detection.detector import Detector
from vae_lab.errors import DataError
from vae_lab.evaluation.metrics.latents import posterior_statistics
from vae_lab.latents.encoding import encode_images
from vae_lab.latents.projection import Projection, project_latents
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.folder import find_run, locate
from vae_lab.runs.inference import NUMBERS, placed
from vae_lab.runs.load import load_data, load_model
from vae_lab.sampling.images import class_label, generate_images, read_classes
from vae_lab.sampling.store import load_sampler
from vae_lab.system.progress import track
from vae_lab.system.randomness import counter_seed

ENCODED = 10_000
"""Training images that are encoded for neighbours and the map, at most."""
ENCODED_PIXELS = 200_000_000
"""Pixels of these images, at most; at 256 pixels a side, a thousand colour images."""
MAPPED = 2_000
"""Points of the map."""
NGENERATED = 200
"""Generated images from which the KL of the latents is estimated if the run's images are missing."""

T = TypeVar("T")


class Statistics(NamedTuple):
    """What the sliders show of the latents.

    Attributes:
        rates: KL to the prior of each latent in nats, averaged over images.
        reach: largest absolute posterior mean of each latent, at least 3 prior standard deviations.
        source: the images, in words.
    """

    rates: Float[Tensor, " nlatent"]
    reach: Float[Tensor, " nlatent"]
    source: str

    @property
    def order(self) -> list[int]:
        """The numbers of the latents, that of the largest KL first."""
        return self.rates.argsort(descending=True, stable=True).tolist()


class Encoded(NamedTuple):
    """Posterior means of training images, in random order, with the rows of the images and their labels."""

    means: Float[Tensor, "n nlatent"]
    rows: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]


class Neighbours(NamedTuple):
    """The training images whose posterior means are nearest, and the distances, nearest first."""

    rows: Int64[Tensor, " k"]
    distances: Float[Tensor, " k"]


class Explored:
    """A run with what a page computes of it; each result is computed at its first use and kept.

    Args:
        run: a run folder, a checkpoint file or a Hub folder.
        score: config of the anomaly score of one's own pictures, as `score_config` returns it.
        how: which checkpoint and images are used, what the score is calibrated with, and whose classes are trusted.

    Raises:
        DataError: if the run cannot be read.
        ValueError: if it names classes of packages that are not trusted.
    """

    def __init__(self, run: str | Path, score: dict[str, Any], how: Calibration) -> None:
        self.run = find_run(run)
        self.score = score
        self.how = how
        self.model: LatentModel = load_model(self.run, how.checkpoint, trust=how.trust)
        self.classes, self.counts = read_classes(self.run, how.checkpoint)
        self.folder = locate(self.run, how.checkpoint).folder
        self.kept: dict[object, Any] = {}
        self.lock = RLock()

    def once(self, name: object, make: Callable[[], T]) -> T:
        """Return what `make` returned at the first call with this name; other threads wait for it."""
        if name not in self.kept:
            with self.lock:
                if name not in self.kept:
                    self.kept[name] = make()
        return self.kept[name]

    def class_name(self, number: int) -> str:
        """Return the name of a class, or its number if it has no name."""
        return class_label(self.classes, number)

    def data(self) -> ImageData:
        """Return the images of the run.

        Raises:
            DataError: if they are missing or differ from those of the training.
            ValueError: if they have classes of packages that are not trusted.
        """
        how = self.how
        return self.once("data", lambda: load_data(self.run, how.checkpoint, root=how.root, trust=how.trust))

    def test_images(self) -> ImageSet | None:
        """Return the run's test images, or None without the run's images."""
        return self.once("test images", self._test_images)

    def _test_images(self) -> ImageSet | None:
        try:
            return self.data().raw_splits.test
        except (DataError, ValueError):
            return None

    def statistics(self) -> Statistics:
        """Return the KL and the reach of each latent, over validation images, or else over images of the model."""
        return self.once("statistics", self._statistics)

    def _statistics(self) -> Statistics:
        model = self.model
        n = max(16, min(1000, 8 * NUMBERS // (model.channels * model.image_size**2)))
        try:
            images = self.data().eval_splits.val
        except (DataError, ValueError) as error:
            labels: list[int] = []
            made = generate_images(model, NGENERATED, seed=0, counts=self.counts, drawn=labels)
            given, pixels = model.given(torch.tensor(labels)), made.to(next(model.parameters()))
            source = f"{NGENERATED} images that the model generated, because {error}"
        else:
            given, pixels = placed(model, images, slice(n))
            source = f"{len(pixels)} validation images"
        means, rates = posterior_statistics(given, pixels)
        return Statistics(rates, means.abs().amax(0).clamp(min=3), source)

    def sampler(self, name: str) -> Distribution:
        """Return the prior, or the mixture or flow of the run; see `load_sampler`."""
        how = self.how
        return self.once(
            ("sampler", name),
            lambda: load_sampler(
                self.run, self.model, name, checkpoint=how.checkpoint, root=how.root, trust=how.trust
            ),
        )  # fmt: skip

    def detector(self) -> Detector:
        """Return the calibrated detector of the score; see `load_detector`."""
        return self.once("detector", lambda: load_detector(self.run, self.score, self.how))

    def encoded(self) -> Encoded:
        """Return the posterior means of random training images, at most `ENCODED`."""
        return self.once("encoded", self._encoded)

    def _encoded(self) -> Encoded:
        training, model = self.data().raw_splits.train, self.model
        n = min(ENCODED, ENCODED_PIXELS // (model.channels * model.image_size**2), len(training))
        generator = torch.Generator().manual_seed(counter_seed("explore"))
        rows = torch.randperm(len(training), generator=generator)[:n]
        means = [encode_images(model, training.subset(part)) for part in track(rows.split(256), "encoding")]
        return Encoded(torch.cat(means), rows, training.labels[rows])

    def neighbours(self, mean: Float[Tensor, "1 nlatent"], k: int) -> Neighbours:
        """Return the `k` encoded training images whose posterior means are nearest to a latent vector."""
        encoded = self.encoded()
        nearest = torch.cdist(mean, encoded.means)[0].topk(min(k, len(encoded.means)), largest=False)
        return Neighbours(encoded.rows[nearest.indices], nearest.values)

    def plane(self) -> Projection:
        """Return the principal plane of the encoded training images; its points are those of the first `MAPPED`."""
        return self.once("plane", lambda: project_latents(self.encoded().means[:MAPPED]))
