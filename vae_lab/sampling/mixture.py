"""The distribution that latents are drawn from: a run's prior, or a Gaussian mixture fitted once and stored.

The mixture's file is samplers/gmm-<checkpoint>-<digest>.pt in the run folder, or in the cache if the run folder is
read-only. The digest covers the weights and the settings of the fit, so that further training leads to a new mixture.
With too many latents for the number of images, as in a 256-pixel autoencoder, the mixture is in a principal subspace.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.data.images import ImageSet
from vae_lab.errors import DataError, require_choice
from vae_lab.models.vae import VAE
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.priors import gaussian_mixture
from vae_lab.runs.folder import locate
from vae_lab.runs.identity import identity
from vae_lab.runs.inference import batch_size, placed
from vae_lab.runs.load import encode_images, load_data, weights_digest
from vae_lab.runs.packages import Trust
from vae_lab.runs.tensor_file import read_tensors
from vae_lab.sampling.latent_samplers import fitted_density
from vae_lab.sampling.subspace import SubspaceMixture
from vae_lab.system.atomic import whole
from vae_lab.system.folders import kept_path, place_to_keep

log = logging.getLogger(__name__)

NAMES = ("prior", "gmm")
NCOMPONENTS = 10
NFITTED = 20_000
"""Number of training images that the mixture is fitted to: the first ones, whose order is random already."""


def load_sampler(
    run: Path,
    model: LatentModel,
    name: str,
    *,
    checkpoint: str = "best",
    root: str | None = None,
    trust: Trust = None,
) -> Distribution:
    """Return a distribution of latents: the prior, or the run's Gaussian mixture, fitted and stored if it is missing.

    Raises:
        DataError: if the training images are needed and missing.
        ValueError: if `name` is unknown, or the mixture does not support the model.
    """
    require_choice("sampler", name, NAMES)
    if name == "prior":
        return model.prior()
    if not isinstance(model, VAE):
        raise ValueError(
            "sampler=gmm requires a model with one vector of latents, and a ladder learns the density of its lower"
            " groups; choose sampler=prior."
        )
    path = mixture_path(run, checkpoint)
    if path.is_file():
        return read_mixture(path)
    log.info("fitting a mixture of %d normals to the latents of the training images, stored in %s", NCOMPONENTS, path)
    data = load_data(run, checkpoint, root=root, trust=trust)
    return fit_mixture(run, model, data.eval_splits.train, checkpoint=checkpoint)


def mixture_path(run: Path, checkpoint: str) -> Path:
    """Return the path of the stored Gaussian mixture for a run's current weights."""
    return kept_path(*mixture_place(run, checkpoint))


def mixture_place(run: Path, checkpoint: str) -> tuple[Path, str, str]:
    """Return the run folder, the file name of the Gaussian mixture relative to it, and a hash of the weights."""
    folder, name = locate(run, checkpoint)
    weights = weights_digest(run, checkpoint)
    rule = {"weights": weights, "ncomponents": NCOMPONENTS, "nfitted": NFITTED}
    return folder, f"samplers/gmm-{name}-{identity({}, protocol=rule)[:8]}.pt", weights


def fit_mixture(run: Path, model: LatentModel, training: ImageSet, *, checkpoint: str) -> Distribution:
    """Fit a Gaussian mixture to the posterior means of training images, store it and return it.

    A conditional model has one mixture for all classes, as it has one prior. `model` is loaded from `checkpoint` of
    `run`, a run folder or a checkpoint file.
    """
    rows = torch.arange(min(len(training), NFITTED)).split(2 * batch_size(model))
    latents = torch.cat([encode_images(*placed(model, training, some)) for some in rows])
    if len(latents) < 2 * NCOMPONENTS:
        log.warning("warning: a mixture fitted to only %d images does not generalize well", len(latents))
    mixture = fitted_density(latents, NCOMPONENTS, seed=0)
    if isinstance(mixture, SubspaceMixture):
        line = "%d latents are too many for full covariances of %d images; the mixture has %d principal directions"
        log.info(line, model.nlatent, len(latents), mixture.directions.shape[1])
    path = place_to_keep(*mixture_place(run, checkpoint))
    try:
        with whole(path) as temporary:
            torch.save(parts_of(mixture), temporary)
    except OSError as error:
        log.warning("cannot store the mixture in %s: %s", path.parent, error.strerror)
    return mixture


def parts_of(mixture: Any) -> dict[str, Tensor]:  # noqa: ANN401 (torch's mixtures are not typed)
    """Return the parameters of a Gaussian mixture as tensors by name."""
    if isinstance(mixture, SubspaceMixture):
        own = {"location": mixture.location, "directions": mixture.directions.clone(), "variance": mixture.rest}
        return parts_of(mixture.inner) | own
    return {
        "weights": mixture.mixture_distribution.probs,
        "means": mixture.component_distribution.loc,
        "covariances": mixture.component_distribution.covariance_matrix,
    }


def read_mixture(path: Path) -> Distribution:
    """Return the Gaussian mixture that is stored in a file.

    Raises:
        DataError: if the file is not a stored mixture.
    """
    try:
        stored = read_tensors(path)
        mixture = gaussian_mixture(stored["weights"], stored["means"], stored["covariances"])
        if "directions" not in stored:
            return mixture
        return SubspaceMixture(stored["location"], stored["directions"], mixture, stored["variance"])
    except Exception as error:  # errors of damaged or malicious files have no common type in torch
        raise DataError(f"{path.absolute()} is not a stored mixture; delete it to fit a new one.") from error
