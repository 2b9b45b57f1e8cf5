"""The distributions that latents are drawn from: a run's prior, or a density fitted once and stored.

A fitted density is a Gaussian mixture or a flow. Its file is samplers/<name>-<checkpoint>-<digest>.pt in the run
folder, or in the cache if the run folder is read-only. The digest covers the weights and the settings of the fit, so
that further training leads to a new density. With too many latents for the number of images, as in a 256-pixel
autoencoder, the mixture is in a principal subspace.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.data.images import ImageSet
from vae_lab.errors import DataError, require_choice
from vae_lab.models.modes import evaluating
from vae_lab.models.vae import VAE
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.priors import gaussian_mixture
from vae_lab.runs.folder import locate
from vae_lab.runs.identity import identity
from vae_lab.runs.inference import batch_size, placed
from vae_lab.runs.load import load_data, trains_sigma, weights_digest
from vae_lab.runs.packages import Trust
from vae_lab.runs.tensor_file import read_tensors
from vae_lab.sampling.flow import FIT, Flow, Posteriors, Velocity, fitted_flow
from vae_lab.sampling.latent_samplers import fitted_density
from vae_lab.sampling.subspace import SubspaceMixture
from vae_lab.system.atomic import whole
from vae_lab.system.folders import kept_path, place_to_keep

log = logging.getLogger(__name__)

NAMES = ("prior", "gmm", "flow")
NCOMPONENTS = 10
NFITTED = 20_000
"""Number of training images that a density is fitted to: the first ones, whose order is random already."""

FITS = {"gmm": {"ncomponents": NCOMPONENTS}, "flow": FIT._asdict()}
"""Settings of each fit, which are part of the digest in the name of its file."""


def load_sampler(
    run: Path,
    model: LatentModel,
    name: str,
    *,
    checkpoint: str = "best",
    root: str | None = None,
    trust: Trust = None,
) -> Distribution:
    """Return a distribution of latents: the prior, or the run's mixture or flow, fitted and stored if it is missing.

    Raises:
        DataError: if the training images are needed and missing.
        ValueError: if `name` is unknown, or the density does not support the model.
    """
    require_choice("sampler", name, NAMES)
    if name == "prior":
        return model.prior()
    vae = require_fitted(model, name)
    path = sampler_path(run, name, checkpoint)
    if path.is_file():
        return read_sampler(path)
    data = load_data(run, checkpoint, root=root, trust=trust)
    return fit_sampler(run, vae, name, data.eval_splits.train, checkpoint=checkpoint)


def require_fitted(model: LatentModel, name: str) -> VAE:
    """Return the model if a density can be fitted to its latents.

    Raises:
        ValueError: if the model is a ladder.
    """
    if isinstance(model, VAE):
        return model
    raise ValueError(
        f"sampler={name} requires a model with one vector of latents, and a ladder learns the density of its lower"
        " groups; choose sampler=prior."
    )


def sampler_path(run: Path, name: str, checkpoint: str) -> Path:
    """Return the path of the stored density for a run's current weights."""
    return kept_path(*sampler_place(run, name, checkpoint))


def sampler_place(run: Path, name: str, checkpoint: str) -> tuple[Path, str, str]:
    """Return the run folder, the file name of the density relative to it, and a hash of the weights."""
    folder, stem = locate(run, checkpoint)
    weights = weights_digest(run, checkpoint)
    rule = {"weights": weights, "nfitted": NFITTED} | FITS[name]
    return folder, f"samplers/{name}-{stem}-{identity({}, protocol=rule)[:8]}.pt", weights


def fit_sampler(run: Path, model: VAE, name: str, training: ImageSet, *, checkpoint: str) -> Distribution:
    """Fit a mixture or a flow to the posteriors of training images, store it and return it.

    The mixture is fitted to their means, and the flow to draws. A conditional model has one density for all classes, as
    it has one prior. `model` is loaded from `checkpoint` of `run`, a run folder or a checkpoint file.
    """
    path = place_to_keep(*sampler_place(run, name, checkpoint))
    log.info("fitting sampler=%s to the latents of the training images, stored in %s", name, path)
    posteriors = encode_posteriors(model, training)
    nimages = len(posteriors.mean)
    if nimages < 2 * NCOMPONENTS:
        log.warning("warning: a density fitted to only %d images does not generalize well", nimages)
    if name == "flow":
        known = trains_sigma(run, checkpoint)
        density = fitted_flow(posteriors if known else posteriors.without_spread(), model.cells, seed=0)
    else:
        density = fitted_density(posteriors.mean, NCOMPONENTS, seed=0)
    if isinstance(density, SubspaceMixture):
        line = "%d latents are too many for full covariances of %d images; the mixture has %d principal directions"
        log.info(line, model.nlatent, nimages, density.directions.shape[1])
    try:
        with whole(path) as temporary:
            torch.save(parts_of(density), temporary)
    except OSError as error:
        log.warning("cannot store the density in %s: %s", path.parent, error.strerror)
    return density


@torch.no_grad()
def encode_posteriors(model: VAE, images: ImageSet) -> Posteriors:
    """Return the posteriors of the first images of a set, at most NFITTED, on the CPU."""
    rows = torch.arange(min(len(images), NFITTED)).split(batch_size(model))
    with evaluating(model):
        found = [given.posterior(image) for given, image in (placed(model, images, some) for some in rows)]
    return Posteriors(torch.cat([q.mean.cpu() for q in found]), torch.cat([q.stddev.cpu() for q in found]))


def parts_of(density: Any) -> dict[str, Tensor]:  # noqa: ANN401 (torch's mixtures are not typed)
    """Return the parameters of a Gaussian mixture or a flow as tensors by name."""
    if isinstance(density, Flow):
        weights = {f"velocity.{name}": value.float() for name, value in density.velocity.state_dict().items()}
        cells = torch.tensor(density.velocity.cells)
        return {"location": density.location, "scale": density.scale, "cells": cells} | weights
    if isinstance(density, SubspaceMixture):
        own = {"location": density.location, "directions": density.directions.clone(), "variance": density.rest}
        return parts_of(density.inner) | own
    return {
        "weights": density.mixture_distribution.probs,
        "means": density.component_distribution.loc,
        "covariances": density.component_distribution.covariance_matrix,
    }


def read_sampler(path: Path) -> Distribution:
    """Return the mixture or flow that is stored in a file.

    Raises:
        DataError: if the file holds neither.
    """
    try:
        stored = read_tensors(path)
        if "scale" in stored:
            return flow_from(stored)
        mixture = gaussian_mixture(stored["weights"], stored["means"], stored["covariances"])
        if "directions" not in stored:
            return mixture
        return SubspaceMixture(stored["location"], stored["directions"], mixture, stored["variance"])
    except Exception as error:  # errors of damaged or malicious files have no common type in torch
        raise DataError(f"{path.absolute()} is not a stored density; delete it to fit a new one.") from error


def flow_from(stored: dict[str, Tensor]) -> Flow:
    """Return the flow whose parameters `parts_of` returned."""
    velocity = Velocity(len(stored["location"]), int(stored["cells"]))
    prefix = "velocity."
    velocity.load_state_dict({key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)})
    return Flow(stored["location"], stored["scale"], velocity)
