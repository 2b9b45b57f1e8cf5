"""How well images survive encoding and decoding."""

from jaxtyping import Float
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from vae_lab.errors import require_counts

Image = Float[Tensor, "batch channels height width"]

USUAL_RADIUS = 5
"""Of the 11 x 11 window with sigma 1.5 of Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861."""


class PixelMSE(MeanMetric):
    """The squared error per pixel and channel; torchmetrics' own refuses images that are laid out channels-last."""

    def update(self, preds: Image, target: Image) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Count one batch in."""
        super().update((preds - target).square().flatten(1).mean(1))


def reconstruction_metrics(image_size: int) -> MetricCollection:
    """Return mse, psnr and ssim, to be updated with (decoded, images), both in [0, 1]; each is a mean over images.

    mse: squared error per pixel and channel.
    psnr: -10 log10 mse of each image, in dB, and then the mean, so it isn't that of the mean mse but at least as high;
        infinite as soon as one image is perfect.
    ssim: from -1 to 1 for a perfect copy. Edges are reflected into the windows. Images under 11 pixels get a smaller
        window of the same shape, at 8 pixels 7 x 7, since most of the usual one would be reflections.
    """
    require_counts(image_size=image_size)
    if image_size < 3:
        raise ValueError(f"image_size must be at least 3 for ssim, which compares windows, not {image_size}.")
    radius = min(USUAL_RADIUS, (image_size - 1) // 2)
    sigma = 1.5 * radius / USUAL_RADIUS  # torchmetrics derives the window from sigma and ignores kernel_size
    return MetricCollection(
        {
            "mse": PixelMSE(),
            "psnr": PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3)),
            "ssim": StructuralSimilarityIndexMeasure(sigma=sigma, data_range=1.0),
        }
    )
