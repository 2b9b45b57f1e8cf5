"""Checks and device-dependent defaults of the evaluation settings."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vae_lab.errors import DivergedError, require_choice, require_count
from vae_lab.features.weights import NETWORKS
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.load import PARTS, load_checkpoint, load_model, trains_sigma
from vae_lab.runs.packages import Trust
from vae_lab.runs.provenance import device_name
from vae_lab.sampling.store import FITS

log = logging.getLogger(__name__)

NUMBERS = 2_000_000
"""Largest number of output values (pixels times channels) decoded at once."""

FEWEST = 4
"""Smallest number of images in any set that is compared."""


class Sizes(NamedTuple):
    """The numbers of latents and images that an evaluation uses.

    Attributes:
        nsamples: latents per image in the likelihood estimate.
        nll_images: images whose likelihood is estimated.
        ncompared: images in each set of samples that is compared with the data.
    """

    nsamples: int
    nll_images: int
    ncompared: int


CPU, GPU = Sizes(200, 500, 2048), Sizes(5000, 10**9, 10_000)

JUDGED_ON_CPU = 512
"""Images in each set of samples on a CPU if a network trained on photographs judges them, 35 images per second."""

NTRAINING = {"cpu": 5000, "cuda": 50_000}
"""Largest number of training images among the pictures that such a network compares with samples, by device."""


def check_settings(split: str, seed: int, **counts: int) -> None:
    """Raise ValueError if an evaluation setting is out of range.

    The check reads neither the run nor its images.
    """
    require_choice("split", split, PARTS)
    if not isinstance(seed, int):
        raise ValueError(f"seed must be a whole number, not {seed}.")
    for name, value in counts.items():
        require_count(name, value, 2 if name in ("ngroups", "nreplicates") else 1)  # an interval needs two


def check_samplers(samplers: Sequence[str] | None) -> None:
    """Raise ValueError unless all samplers are names of densities that are fitted to latents."""
    for name in samplers or ():
        require_choice("samplers", name, FITS)


def load_finite_model(run: Path, checkpoint: str, trust: Trust = None) -> LatentModel:
    """Return the model of a run, after checking that its weights are finite.

    Log a warning if the training objective is no bound on the likelihood.

    Raises:
        DivergedError: if a weight is not finite.
    """
    model = load_model(run, checkpoint, trust=trust)
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise DivergedError(f"the weights of {run} are not finite: training diverged; evaluate another checkpoint.")
    if not trains_sigma(run, checkpoint):
        log.warning("this run trained no sigma: its likelihood, rate and posterior samples are meaningless")
    return model


def networks_of_training(run: Path, checkpoint: str) -> list[str]:
    """Return the pretrained networks whose features the training of a run used, in an adversary or a distance."""
    task = load_checkpoint(run, checkpoint)["hyper_parameters"]["task"]
    return sorted({value for key, value in settings_in(task) if key == "network" and value in NETWORKS})


def settings_in(node: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Yield the key and value of each text in nested dicts and lists."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    for key, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, str):
            yield str(key), value
        else:
            yield from settings_in(value)


def choose_sizes(
    asked: tuple[int | None, ...], where: torch.device, nimages: int, nunseen: int, *, judged: bool = False
) -> Sizes:
    """Return the numbers of latents and images to use; the device's default replaces each None in `asked`.

    All sets in a comparison have the same number of images, at most the number of unseen real images, because
    distances and shares depend on that number. If a pretrained network judges the samples, they are compared with all
    images of the data set, so their number has no such limit.

    Raises:
        ValueError: if a number is out of range, or there are too few images.
    """
    defaults = CPU if where.type == "cpu" else GPU
    if judged and where.type == "cpu":
        defaults = defaults._replace(ncompared=JUDGED_ON_CPU)
    sizes = Sizes(*(default if given is None else given for given, default in zip(asked, defaults, strict=True)))
    require_count("nsamples", sizes.nsamples)
    require_count("nll_images", sizes.nll_images)
    require_count("ngenerated", sizes.ncompared)
    ncompared = sizes.ncompared if judged else min(sizes.ncompared, nunseen)
    sizes = sizes._replace(nll_images=min(sizes.nll_images, nimages), ncompared=ncompared)
    if min(sizes.nll_images, sizes.ncompared, nimages, nunseen) < FEWEST:
        raise ValueError(
            f"nll_images={sizes.nll_images}, ngenerated={sizes.ncompared} and a split of {nimages} images are too few;"
            f" use at least {FEWEST} images of each."
        )
    return sizes


def limit_settings(settings: dict[str, int], nimages: int) -> dict[str, int]:
    """Return the settings, with `ngroups` and `k` lowered if they are too large for the number of images.

    Log a warning for each lowered setting.
    """
    limits = {"ngroups": nimages // 2, "k": nimages - 1}
    for name, limit in limits.items():
        if settings[name] > limit:
            log.warning("%s=%d is too large for %d images: using %d", name, settings[name], nimages, limit)
    return settings | {name: min(settings[name], limit) for name, limit in limits.items()}


def choose_chunk(asked: int | None, nnumbers: int) -> int:
    """Return the number of latents decoded at once: `asked` if it is given, else fewer for larger images."""
    if asked is None:
        return max(1, NUMBERS // nnumbers)
    require_count("chunk", asked)
    return asked


def log_sizes(sizes: Sizes, where: torch.device, nimages: int) -> None:
    """Log the numbers of latents and images, and the settings of the full protocol if these are smaller."""
    line = "%s: -log p(x) of %d of %d images with %d samples each, %d images in each set of samples"
    log.info(line, device_name(where), sizes.nll_images, nimages, sizes.nsamples, sizes.ncompared)
    if (sizes.nsamples, sizes.nll_images) != (GPU.nsamples, nimages):
        log.info("the full protocol is nsamples=5000 nll_images=%d ngenerated=10000", nimages)
