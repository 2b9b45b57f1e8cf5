"""Maps of latents: projections to two dimensions by PCA, t-SNE or UMAP."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vae_lab.errors import require_choice, require_count, require_number
from vae_lab.system.randomness import seeded

METHODS = ("pca", "tsne", "umap")
FEWEST = 4
"""Number of latents that UMAP cannot map."""
EXACT = 1024
"""Largest number of latents for which PCA is exact; for more, it is a randomized one."""


class Projection(NamedTuple):
    """Points on a plane, one for each latent vector.

    Attributes:
        method: "pca", "tsne" or "umap".
        coordinates: the points, float32 on the CPU.
        explained: shares of the latents' variance along the two axes, from 0 to 1; None unless the method is PCA.
        mean: the latents of the point (0, 0); None unless the method is PCA.
        axes: the orthonormal directions of the two axes; None unless the method is PCA.
    """

    method: str
    coordinates: Float[Tensor, "n 2"]
    explained: tuple[float, float] | None = None
    mean: Float[Tensor, " nlatent"] | None = None
    axes: Float[Tensor, "2 nlatent"] | None = None

    def to_latents(self, points: Float[Tensor, "m 2"]) -> Float[Tensor, "m nlatent"]:
        """Return the latents of points on the plane of a PCA, which `decode_latents` decodes.

        Raises:
            ValueError: if the method is not PCA; the others have no inverse.
        """
        if self.mean is None or self.axes is None:
            raise ValueError(f"method={self.method} cannot turn points into latents; choose method=pca.")
        return self.mean + points.to(self.axes) @ self.axes


def project_latents(
    latents: Float[Tensor, "n nlatent"],
    method: str = "pca",
    seed: int = 0,
    *,
    perplexity: float = 30.0,
    nneighbors: int = 15,
) -> Projection:
    """Return latents as points on a plane, the same for the same seed.

    Args:
        latents: such as the posterior means of `encode_images`.
        method: "pca", the plane of largest variance; "tsne" (van der Maaten and Hinton 2008,
            https://jmlr.org/papers/v9/vandermaaten08a.html); or "umap" (McInnes, Healy and Melville 2018,
            https://arxiv.org/abs/1802.03426). The last two keep neighbours together; distances between groups mean
            little.
        seed: of t-SNE, UMAP and a randomized PCA.
        perplexity: of t-SNE: about the number of neighbours of a point; below the number of latents.
        nneighbors: of UMAP.

    Raises:
        ValueError: if there are too few latents for the method, or it is unknown or not installed.

    Example:
        >>> from vae_lab import encode_images, load_data, load_model
        >>> from vae_lab.latents.projection import project_latents
        >>> latents = encode_images(load_model("outputs/digits"), load_data("outputs/digits").splits.val)
        >>> found = project_latents(latents)
        >>> found.coordinates.shape[1], found.to_latents(found.coordinates).shape == latents.shape
        (2, True)
    """
    n, nlatent = latents.shape
    check_projection(method, n, nlatent, perplexity=perplexity, nneighbors=nneighbors)
    numbers = latents.detach().cpu().double()
    if method == "pca":
        return _principal_plane(numbers, seed)
    if not numbers.var(0).any():
        raise ValueError(f"method={method}: all {n} images have the same latents; method=pca shows one point.")
    if method == "tsne":
        from sklearn.manifold import TSNE  # takes half a second

        make: Any = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed)
    else:
        make = load_umap()(n_components=2, n_neighbors=nneighbors, random_state=seed, n_jobs=1)
    return Projection(method, torch.from_numpy(make.fit_transform(numbers.numpy())).float())


def check_projection(method: str, n: int, nlatent: int, *, perplexity: float = 30.0, nneighbors: int = 15) -> None:
    """Raise ValueError if `project_latents` cannot map `n` vectors of `nlatent` latents by these settings."""
    require_choice("method", method, METHODS)
    require_number("perplexity", perplexity, "(0, inf)")
    require_count("nneighbors", nneighbors, 2)
    if nlatent < 2:
        raise ValueError("the model has 1 latent, and a map needs 2; encode writes the values of one latent.")
    if n < 2:
        raise ValueError(f"images= holds {n} usable image, and a map needs at least 2; name more images.")
    if method == "tsne" and perplexity >= n:
        raise ValueError(
            f"perplexity={perplexity:g} must be below the number of images, {n}; choose a smaller one, or method=pca."
        )
    if method == "umap" and max(nneighbors, FEWEST) >= n:
        raise ValueError(
            f"method=umap needs more images than nneighbors={nneighbors} and at least {FEWEST + 1}, not {n}; choose"
            " a smaller nneighbors, or method=pca."
        )
    if method == "umap":
        load_umap()


def load_umap() -> Any:  # noqa: ANN401
    """Return the class UMAP of the package umap-learn.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        from umap import UMAP  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("method=umap needs umap-learn: pip install 'vae_lab[umap]', or choose tsne or pca.") from error
    return UMAP


def _principal_plane(latents: Float64[Tensor, "n nlatent"], seed: int) -> Projection:
    """Return the projection onto the two directions of largest variance."""
    mean = latents.mean(0)
    centred = latents - mean
    if latents.shape[1] <= EXACT:
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1).T
    else:
        with seeded("map", seed):
            axes = torch.svd_lowrank(centred, q=min(12, *latents.shape), niter=16)[2][:, :2].T
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)  # either sign is a solution
    points, total = centred @ axes.T, float(latents.var(0).sum())
    first, second = (float(part) / total if total else 0.0 for part in points.var(0))
    return Projection("pca", points.float(), (first, second), mean.float(), axes.float())
