"""A score on features of a network trained on photographs: the distance to the nearest training image."""

from collections.abc import Iterator
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from vae_lab.detection.scores.anomaly import Batches, Heat, Score, require_fitted
from vae_lab.errors import require_choice, require_count
from vae_lab.features.pyramid import FeaturePyramid, Maps
from vae_lab.features.weights import NETWORKS, require_available
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.scores import Images, Nats
from vae_lab.system.randomness import counter_seed

STRIDE16 = 2
"""Index of the feature map at a stride of 16 pixels: coarser maps know objects better and brushwork worse."""
SMALLEST = 128
NPIXELS = 32 * SMALLEST**2
"""Largest number of pixels that pass through the network at once."""

Rows = Float[Tensor, "_ nfeatures"]


class FeatureDistance(Score):
    """The distance of an image to the nearest training image, in features of EfficientNet-Lite; not in nats.

    Bergman, Cohen and Hoshen 2020, https://arxiv.org/abs/2002.10445, compare averages of the features over places. Here
    the vectors of `summarize_maps` are compared, which also describe spread and layout. The score does not depend on
    the VAE.

    The heat of a place is the distance of its patch to the nearest of `npatches` random patches of training images, as
    in PatchCore (Roth et al. 2022, https://arxiv.org/abs/2106.08265), less the distance within which nine in ten of
    these have a neighbour.

    Args:
        network: "lite0" or "lite2".
        npatches: largest number of patches that the heat maps compare with.
        seed: seed of the choice of these patches.
    """

    def __init__(self, network: str, npatches: int, seed: int) -> None:
        super().__init__()
        require_choice("score.network", network, NETWORKS)
        require_count("score.npatches", npatches, least=2)
        self.network = network
        self.npatches = npatches
        self.seed = seed
        self.set_extra_state(dict.fromkeys(("vectors", "patches", "usual"), torch.full((1, 1), torch.nan)))

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the fitted state, which is no buffer because its size depends on the number of training images."""
        return {"vectors": self.vectors, "patches": self.patches, "usual": self.usual}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Set the fitted state."""
        self.vectors, self.patches, self.usual = state["vectors"], state["patches"], state["usual"]

    @cached_property
    def pyramid(self) -> FeaturePyramid:
        """The network, which is loaded at its first use, in seconds."""
        return FeaturePyramid(self.network, "score.network", smallest=SMALLEST)

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the network is not installed, or the images are neither grey nor in three colours."""
        require_available(self.network, "score=features")
        if model.channels not in {1, 3}:
            raise ValueError(f"score=features reads images with 1 or 3 channels, and the run's have {model.channels}.")

    def maps(self, images: Images) -> Iterator[Maps]:
        """Yield the feature maps of a few images at a time, to bound memory."""
        for part in images.split(max(1, NPIXELS // max(SMALLEST**2, images[0, 0].numel()))):
            yield self.pyramid(part)

    @torch.no_grad()
    def fit(self, model: LatentModel, batches: Batches) -> None:
        """Compute the vectors of normal images, and choose random patches of them, all with equal probability."""
        generator = torch.Generator().manual_seed(counter_seed("patches", self.seed))
        vectors: list[Tensor] = []
        chosen, keys = torch.empty(0), torch.empty(0)
        for maps in (maps for images in batches for maps in self.maps(images)):
            vectors.append(summarize_maps(maps).cpu())
            patches = describe_patches(maps).permute(0, 2, 3, 1).flatten(0, 2).cpu()
            keys = torch.cat([keys, torch.rand(len(patches), generator=generator)])
            kept = keys.topk(min(self.npatches, len(keys)), largest=False).indices
            chosen, keys = torch.cat([chosen.view(-1, patches.shape[1]), patches])[kept], keys[kept]
        self.vectors, self.patches = torch.cat(vectors).half(), chosen.half()  # half the size on disk
        others = [torch.cdist(part, chosen).topk(2, largest=False).values[:, 1] for part in chosen.split(1000)]
        self.usual = torch.cat(others).quantile(0.9)

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the distance of each image to the nearest training image."""
        require_fitted(self.vectors, "features")
        vectors = torch.cat([summarize_maps(maps) for maps in self.maps(images)])
        return nearest(vectors, self.vectors).to(images)

    @torch.no_grad()
    def heat(self, model: LatentModel, images: Images) -> Heat:
        """Return how much farther each place is from the nearest patch of training images than these are usually."""
        require_fitted(self.patches, "features")
        found = []
        for maps in self.maps(images):
            patches = describe_patches(maps)
            distances = nearest(patches.permute(0, 2, 3, 1).flatten(0, 2), self.patches)
            found.append((distances - self.usual.to(distances)).clamp(min=0).view(len(patches), 1, *patches.shape[2:]))
        return F.interpolate(torch.cat(found), images.shape[2:], mode="bilinear")[:, 0]


def summarize_maps(maps: Maps) -> Float[Tensor, "batch nsummaries"]:
    """Return a vector for each image, of the feature map with a stride of 16 pixels.

    It holds the mean and the standard deviation of each feature over places, and the halved mean in each quarter of the
    image, so that the quarters weigh as much as the whole.
    """
    features = maps[STRIDE16]
    quarters = F.adaptive_avg_pool2d(features, 2).flatten(1) / 2
    return torch.cat([features.mean((2, 3)), features.std((2, 3)), quarters], 1)


def describe_patches(maps: Maps) -> Float[Tensor, "batch nfeatures rows columns"]:
    """Return the features of patches at a stride of 16 pixels: maps of strides 8 and 16, averaged over neighbours."""
    finer, coarser = (
        F.avg_pool2d(part, 3, 1, 1, count_include_pad=False) for part in maps[STRIDE16 - 1 : STRIDE16 + 1]
    )
    return torch.cat([F.interpolate(finer, coarser.shape[2:], mode="area"), coarser], 1)


def nearest(points: Rows, references: Rows) -> Float[Tensor, " _"]:
    """Return the Euclidean distance of each point to the nearest reference."""
    return torch.cdist(points, references.to(points)).amin(1)
