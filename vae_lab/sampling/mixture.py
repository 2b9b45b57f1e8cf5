"""The samplers of a run: its prior, or a Gaussian mixture fitted once and stored.

The mixture lies in the run folder as samplers/gmm-<checkpoint>-<digest>.pt, or in the cache if that folder cannot be
written, so that generating needs the images once only. The digest is of the weights and of how it was fitted: a run
that was trained further gets another mixture. Where there are too many latents for so few images, as in a 256-pixel
autoencoder, it is one in their principal directions.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.data.images import ImageSet
from vae_lab.errors import DataError
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
"""Training images, the first ones, that the mixture is fitted to: their order is a permutation already."""


def load_sampler(
    run: Path,
    model: LatentModel,
    name: str,
    *,
    checkpoint: str = "best",
    root: str | None = None,
    trust: Trust = None,
) -> Distribution:
    """Return the density over latents called `name`; a mixture is fitted, and kept, if the run has none yet.

    Raises:
        DataError: if the images are needed and not there.
        ValueError: if there is no such sampler, or none for this model.
    """
    if name not in NAMES:
        raise ValueError(f"sampler={name}: there are {' and '.join(NAMES)}.")
    if name == "prior":
        return model.prior()
    check_mixture(model)
    path = mixture_path(run, checkpoint)
    if path.is_file():
        return read_mixture(path)
    log.info("fitting a mixture of %d normals to the training images' latents, kept in %s", NCOMPONENTS, path)
    data = load_data(run, checkpoint, root=root, trust=trust)
    return fit_mixture(run, model, data.eval_splits.train, checkpoint=checkpoint)


def check_mixture(model: LatentModel) -> None:
    """Raise ValueError if a mixture cannot be fitted to the model's latents."""
    if not isinstance(model, VAE):
        raise ValueError(
            "sampler=gmm is for models with one vector of latents; a ladder has learned the density of its lower"
            " groups: choose sampler=prior."
        )


def mixture_path(run: Path, checkpoint: str) -> Path:
    """Return where the mixture of the weights that a run has now is kept."""
    return kept_path(*mixture_place(run, checkpoint))


def mixture_place(run: Path, checkpoint: str) -> tuple[Path, str, str]:
    """Return the run folder, the name of its mixture in it, and a hash of the weights that it is fitted for."""
    folder, name = locate(run, checkpoint)
    weights = weights_digest(run, checkpoint)
    rule = {"weights": weights, "ncomponents": NCOMPONENTS, "nfitted": NFITTED}
    return folder, f"samplers/gmm-{name}-{identity({}, protocol=rule)[:8]}.pt", weights


def fit_mixture(run: Path, model: LatentModel, training: ImageSet, *, checkpoint: str) -> Distribution:
    """Return the mixture fitted to the posterior means of training images, and store it.

    It is one for all classes of a conditional model, whose prior knows none either.

    Args:
        run: a run folder, or a checkpoint file.
        model: encodes.
        training: the training images, as the model sees them.
        checkpoint: whose mixture it is.
    """
    rows = torch.arange(min(len(training), NFITTED)).split(2 * batch_size(model))
    latents = torch.cat([encode_images(*placed(model, training, some)) for some in rows])
    if len(latents) < 2 * NCOMPONENTS:
        log.warning("beware: a mixture fitted to %d images says little of any others", len(latents))
    mixture = fitted_density(latents, NCOMPONENTS, seed=0)
    if isinstance(mixture, SubspaceMixture):
        line = "%d latents are too many for full covariances of %d images: it is a mixture in %d principal directions"
        log.info(line, model.nlatent, len(latents), mixture.directions.shape[1])
    path = place_to_keep(*mixture_place(run, checkpoint))
    try:
        with whole(path) as temporary:
            torch.save(parts_of(mixture), temporary)
    except OSError as error:
        log.warning("the mixture cannot be kept in %s: %s", path.parent, error.strerror)
    return mixture


def parts_of(mixture: Any) -> dict[str, Tensor]:  # noqa: ANN401 (torch's mixtures don't say what they are made of)
    """Return the tensors that a mixture is made of."""
    if isinstance(mixture, SubspaceMixture):
        own = {"location": mixture.location, "directions": mixture.directions.clone(), "variance": mixture.rest}
        return parts_of(mixture.inner) | own
    return {
        "weights": mixture.mixture_distribution.probs,
        "means": mixture.component_distribution.loc,
        "covariances": mixture.component_distribution.covariance_matrix,
    }


def read_mixture(path: Path) -> Distribution:
    """Return a stored mixture.

    Raises:
        DataError: if the file is not one.
    """
    try:
        stored = read_tensors(path)
        mixture = gaussian_mixture(stored["weights"], stored["means"], stored["covariances"])
        if "directions" not in stored:
            return mixture
        return SubspaceMixture(stored["location"], stored["directions"], mixture, stored["variance"])
    except Exception as error:  # torch names no common type for what a damaged or hostile file can raise
        raise DataError(f"{path.absolute()} is no mixture of vae_lab; delete it to fit a new one.") from error
