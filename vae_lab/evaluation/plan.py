"""What an evaluation measures, and how: the loaded parts and the settings that are decided before any long work."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from vae_lab.data.datamodule import ImageData
from vae_lab.data.images import ImageSet
from vae_lab.evaluation.extractors import load_extractor
from vae_lab.evaluation.metrics.features import EfficientNetLite, Extractor
from vae_lab.evaluation.protocol import (
    Sizes,
    choose_chunk,
    choose_sizes,
    limit_settings,
    load_finite_model,
    log_sizes,
    networks_of_training,
)
from vae_lab.models.vae import VAE
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.load import load_data
from vae_lab.runs.packages import Trust
from vae_lab.sampling.store import require_fitted, sampler_path

Asked = tuple[int | None, int | None, int | None]


class Plan(NamedTuple):
    """What an evaluation measures, and how.

    Attributes:
        run: the run folder or checkpoint file.
        checkpoint: "best" or "last".
        split: the part of the data to evaluate on.
        other: the part of the real images that neither training nor `split` has.
        seed: of every random draw.
        model: the trained model, on `device`.
        data: the data set of the run.
        extractor: the network whose features judge the samples.
        trained_against: the pretrained networks whose features the training used.
        device: where everything is computed.
        sizes: the numbers of latents and images.
        chunk: latents decoded at once.
        settings: ngroups, nreplicates, k, nreference and side of the comparisons.
        samplers: the densities fitted to latents that samples are drawn from, besides posteriors and prior.
    """

    run: Path
    checkpoint: str
    split: str
    other: str
    seed: int
    model: LatentModel
    data: ImageData
    extractor: Extractor
    trained_against: list[str]
    device: torch.device
    sizes: Sizes
    chunk: int
    settings: dict[str, int]
    samplers: list[str]

    @property
    def images(self) -> ImageSet:
        """The images of the split as the model receives them."""
        return getattr(self.data.eval_splits, self.split)

    @property
    def unseen(self) -> ImageSet:
        """The images of the other part as the model receives them."""
        return getattr(self.data.eval_splits, self.other)

    @property
    def is_judged(self) -> bool:
        """Whether a network trained on photographs judges the samples."""
        return isinstance(self.extractor, EfficientNetLite)


def make_plan(
    run: Path, checkpoint: str, *, split: str, root: str | None, seed: int, device: torch.device, features: str,
    asked: Asked, chunk: int | None, trust: Trust, settings: dict[str, int],
    samplers: Sequence[str] | None,
) -> Plan:  # fmt: skip
    """Return what an evaluation measures, with the model and the images loaded; see `evaluate_run`.

    Raises:
        ValueError, DataError, DivergedError: if a setting, the run or its images cannot be used.
    """
    model = load_finite_model(run, checkpoint, trust).to(device)
    data = load_data(run, checkpoint, root=root, trust=trust)
    images, other = getattr(data.eval_splits, split), "test" if split == "val" else "val"
    nunseen = len(getattr(data.eval_splits, other))
    trained_against = networks_of_training(run, checkpoint)
    extractor = load_extractor(features, data.raw_splits.train, trained_against).to(device)
    judged = isinstance(extractor, EfficientNetLite)
    sizes = choose_sizes(asked, device, len(images), nunseen, judged=judged)
    settings = limit_settings(settings, min(len(images), nunseen, sizes.ncompared))
    log_sizes(sizes, device, len(images))
    chunk = choose_chunk(chunk, images.pixels(slice(1)).numel())
    return Plan(
        run, checkpoint, split, other, seed, model, data, extractor, trained_against, device, sizes, chunk, settings,
        choose_samplers(samplers, run, model, checkpoint),
    )  # fmt: skip


def choose_samplers(asked: Sequence[str] | None, run: Path, model: LatentModel, checkpoint: str) -> list[str]:
    """Return the fitted densities to draw samples from: those asked for, or else gmm, and flow if it is stored.

    Raises:
        ValueError: if one is unknown, or the model is a ladder, which has none.
    """
    if asked is None:
        stored = isinstance(model, VAE) and sampler_path(run, "flow", checkpoint).is_file()
        return ["gmm"] * isinstance(model, VAE) + ["flow"] * stored
    if asked:
        require_fitted(model, asked[0])
    return list(asked)
