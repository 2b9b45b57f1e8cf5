"""The settings of an evaluation, checked and completed."""

import logging
from pathlib import Path
from typing import NamedTuple

import torch

from vae_lab.errors import DivergedError, require_choice, require_count
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.load import PARTS, load_checkpoint, load_model
from vae_lab.runs.packages import Trust
from vae_lab.runs.provenance import device_name

log = logging.getLogger(__name__)

NUMBERS = 2_000_000
"""Pixels and channels of the latents decoded at once."""

FEWEST = 4
"""Images of a kind without which nothing can be compared."""


class Sizes(NamedTuple):
    """How much is computed: latents for an image, images that get so many, images of each row that is compared."""

    nsamples: int
    nll_images: int
    ncompared: int


CPU, GPU = Sizes(200, 500, 2000), Sizes(5000, 10**9, 10_000)


def check(split: str, seed: int, **counts: int) -> None:
    """Raise ValueError if a setting is wrong that needs neither run nor images to be judged."""
    require_choice("split", split, PARTS)
    if not isinstance(seed, int):
        raise ValueError(f"seed must be a whole number, not {seed}.")
    for name, value in counts.items():
        require_count(name, value, 2 if name in ("nblocks", "nreplicates") else 1)  # one gives no interval


def load_sound(run: Path, checkpoint: str, trust: Trust = None) -> LatentModel:
    """Return the run's model, and warn if it was trained for something else than a likelihood.

    Raises:
        DivergedError: if a weight is not finite.
    """
    model = load_model(run, checkpoint, trust=trust)
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise DivergedError(f"the weights of {run} are not finite: training diverged; evaluate another checkpoint.")
    objective = str(load_checkpoint(run, checkpoint)["hyper_parameters"]["objective"].get("_target_"))
    if objective.endswith((".Autoencoder", ".RAEL2")):
        log.warning("this run trained no sigma: its likelihood, its rate and what its posteriors draw mean nothing")
    return model


def chosen_sizes(asked: tuple[int | None, ...], where: torch.device, nimages: int, nunseen: int) -> Sizes:
    """Return how much is computed, None standing for the device's usual.

    All rows of a comparison have equally many images, no more than there are unseen real ones: distances and shares
    depend on the count.

    Raises:
        ValueError: if a number is wrong, or there are too few images.
    """
    usual = CPU if where.type == "cpu" else GPU
    sizes = Sizes(*(default if given is None else given for given, default in zip(asked, usual, strict=True)))
    require_count("nsamples", sizes.nsamples)
    require_count("nll_images", sizes.nll_images)
    require_count("ngenerated", sizes.ncompared)
    sizes = sizes._replace(nll_images=min(sizes.nll_images, nimages), ncompared=min(sizes.ncompared, nunseen))
    if min(sizes.nll_images, sizes.ncompared, nimages) < FEWEST:
        raise ValueError(
            f"nll_images={sizes.nll_images}, ngenerated={sizes.ncompared} and a split of {nimages}: at least {FEWEST}"
            " images of each kind are needed."
        )
    return sizes


def affordable(settings: dict[str, int], nimages: int) -> dict[str, int]:
    """Return the settings with `nblocks` and `k` lowered to what so few images allow, and say so."""
    limits = {"nblocks": nimages // 2, "k": nimages - 1}
    for name, limit in limits.items():
        if settings[name] > limit:
            log.warning("%s=%d is too much for %d images and is lowered to %d", name, settings[name], nimages, limit)
    return settings | {name: min(settings[name], limit) for name, limit in limits.items()}


def chosen_chunk(asked: int | None, nnumbers: int) -> int:
    """Return how many latents are decoded at once: what was asked, or fewer for images of more numbers."""
    if asked is not None:
        require_count("chunk", asked)
    return max(1, NUMBERS // nnumbers) if asked is None else asked


def say_sizes(sizes: Sizes, where: torch.device, nimages: int) -> None:
    """Log how much is computed, and what the full protocol would be."""
    line = "%s: -log p(x) of %d of %d images with %d samples each, %d images in each row of samples"
    log.info(line, device_name(where), sizes.nll_images, nimages, sizes.nsamples, sizes.ncompared)
    if (sizes.nsamples, sizes.nll_images) != (GPU.nsamples, nimages):
        log.info("the full protocol is nsamples=5000 nll_images=%d ngenerated=10000", nimages)
