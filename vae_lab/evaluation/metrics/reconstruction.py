"""Reconstructions of a data set, and their MSE, PSNR and SSIM."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from vae_lab.data.images import ImageSet
from vae_lab.errors import require_count
from vae_lab.features.pyramid import FeaturePyramid, pyramid_distance
from vae_lab.models.modes import evaluating
from vae_lab.probability.distributions import DiagonalNormal
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.inference import Pixels, batches

Image = Float[Tensor, "batch channels height width"]

USUAL_RADIUS = 5
"""Radius of the 11 x 11 window with sigma 1.5 of Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861."""


PERCEIVED = 50
"""Images whose feature maps are held at once."""


class PixelMSE(MeanMetric):
    """Mean squared error per pixel and channel, averaged over images.

    torchmetrics' MeanSquaredError fails on images in channels-last memory format.
    """

    def update(self, preds: Image, target: Image) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Add the squared errors of one batch."""
        super().update((preds - target).square().flatten(1).mean(1))


def reconstruction_metrics(image_size: int) -> MetricCollection:
    """Return the torchmetrics mse, psnr and ssim; update them with (decoded, images), both with pixels in [0, 1].

    Each metric is a mean over images.

    mse: squared error per pixel and channel.
    psnr: mean over images of -10 log10 mse, in dB. It is at least the PSNR of the mean mse, and infinite if one image
        is reconstructed exactly.
    ssim: from -1 to 1, which is a perfect copy. Edges are reflected into the windows. Images of less than 11 pixels a
        side get a smaller window of the same shape, as 7 x 7 at 8 pixels, which otherwise would be mostly reflections.
    """
    require_count("image_size", image_size, 3, ": ssim compares windows")
    radius = min(USUAL_RADIUS, (image_size - 1) // 2)
    sigma = 1.5 * radius / USUAL_RADIUS  # torchmetrics derives the window from sigma and ignores kernel_size
    return MetricCollection(
        {
            "mse": PixelMSE(),
            "psnr": PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3)),
            "ssim": StructuralSimilarityIndexMeasure(sigma=sigma, data_range=1.0),
        }
    )


class Reconstruction(NamedTuple):
    """The posterior statistics and the reconstructions of a set of images, with their metrics.

    Attributes:
        decoded: mean images given the posterior means.
        means: posterior means.
        log_sigmas: posterior log sigmas; None where latents depend on each other.
        moves: posterior means minus prior means; in a ladder, the prior mean of a group depends on the groups above.
        metrics: mse, psnr and ssim; see `reconstruction_metrics`.
    """

    decoded: Pixels
    means: Float[Tensor, "n nlatent"]
    log_sigmas: Float[Tensor, "n nlatent"] | None
    moves: Float[Tensor, "n nlatent"]
    metrics: dict[str, float]


@torch.no_grad()
def perceptual_distances(
    pyramid: FeaturePyramid, images: Pixels, decoded: Pixels, device: torch.device
) -> Float[Tensor, " n"]:
    """Return the `pyramid_distance` of each decoded image from its image."""
    pairs = zip(images.split(PERCEIVED), decoded.split(PERCEIVED), strict=True)
    maps = ((pyramid(a.to(device)), pyramid(b.to(device))) for a, b in pairs)
    return torch.cat([pyramid_distance(a, b).cpu() for a, b in maps])


@torch.no_grad()
def reconstruct_set(model: LatentModel, images: ImageSet) -> Reconstruction:
    """Return the posterior mean and the reconstruction of every image, with their MSE, PSNR and SSIM."""
    metrics = reconstruction_metrics(model.image_size)
    decoded, means, log_sigmas, moves = [], [], [], []
    with evaluating(model):
        for given, image in batches(images, model):
            posterior = given.posterior(image)
            inference = given.infer(posterior, noise=image.new_zeros(1, model.nlatent))
            decoded.append(inference.generative.mean.cpu())
            means.append(inference.z.cpu())
            moves.append((inference.posterior.mean - inference.prior.mean).cpu())
            if isinstance(posterior, DiagonalNormal):
                log_sigmas.append(posterior.log_sigma.cpu())
            metrics.update(decoded[-1], image.cpu())
    values = {name: float(value) for name, value in metrics.compute().items()}
    sigmas = torch.cat(log_sigmas) if log_sigmas else None
    return Reconstruction(torch.cat(decoded), torch.cat(means), sigmas, torch.cat(moves), values)
