"""KID, FID, precision and recall, which compare two sets of feature vectors.

The vectors come from `features.py`. All metrics are computed in float64. Compare none of them across extractors, and
the Frechet distance only between sets of equal size.
"""

import math
from collections.abc import Iterator
from statistics import pvariance
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vae_lab.errors import require_count
from vae_lab.intervals import Interval, t_factor

Vectors = Float[Tensor, "n d"]
Others = Float[Tensor, "m d"]

NGROUPS = 100
CHUNK = 500
LARGEST = 25_000_000
"""Numbers in memory at once, 200 MB."""


class Moments(NamedTuple):
    """Mean and unbiased covariance of a set of vectors."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]


def frechet_distance(a: Vectors, b: Others) -> float:
    """Return the squared Frechet distance between normals fitted to two sets of feature vectors, the formula of FID.

    |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2), Heusel et al. 2017, https://arxiv.org/abs/1706.08500. It has
    a positive bias of O(1/n): compare sets of equal sizes. Rounding errors below 0 are replaced by 0.

    Raises:
        ValueError: if a set has fewer than 2 vectors.
    """
    _check(a, b, 2)
    return _frechet(_moments(a), _moments(b))


def frechet_interval(a: Vectors, b: Others, *, nreplicates: int, seed: int) -> Interval:
    """Return the squared Frechet distance, with an interval of +- 1.96 resampled standard errors, clipped at 0.

    The interval covers the mean of this estimate over sets of these sizes, bias included. Percentiles of the replicates
    are not used: every replicate adds the bias again, so all of them may lie above the value. If both sets come from
    the same distribution, the interval is too wide, by a factor of about 2 at 900 vectors of 60 numbers.

    A replicate is a random half of `NGROUPS` groups of vectors, counted twice (half-samples, McCarthy 1969), so that
    its moments are one product with the moments of the groups. Groups drawn with replacement would not do: the sum of
    squared weights, to which the bias is proportional, would vary by a seventh.

    Args:
        a: one set.
        b: the other set.
        nreplicates: random halves; the standard error has a relative error of about (2 nreplicates)^-1/2.
        seed: seed of the replicates, which use their own generator.

    Raises:
        ValueError: if there are fewer than 2 replicates, or a set has fewer than 2 vectors.
    """
    if nreplicates < 2:
        raise ValueError(f"nreplicates={nreplicates} give no standard error; choose at least 2, usually 100.")
    value = frechet_distance(a, b)
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(_replicates(a, nreplicates, generator), _replicates(b, nreplicates, generator), strict=True)
    spread = 1.96 * torch.tensor([_frechet(*pair) for pair in pairs], dtype=torch.float64).std().item()
    return Interval(value, max(0.0, value - spread), value + spread)


def kernel_distance(a: Vectors, b: Others) -> float:
    """Return KID, the unbiased squared maximum mean discrepancy under the kernel (x.y / d + 1)^3.

    Binkowski et al. 2018, https://arxiv.org/abs/1801.01401; the estimator is that of Gretton et al. 2012,
    https://jmlr.org/papers/v13/gretton12a.html. It can be negative: its mean is 0 for two sets of one distribution.

    Raises:
        ValueError: if a set has fewer than 2 vectors.
    """
    _check(a, b, 2)
    everything = torch.ones(1, dtype=torch.float64, device=a.device)
    return _kernel_distance(_kernel_sums(a, b, 1), everything, everything)


def kernel_interval(a: Vectors, b: Others, *, ngroups: int) -> Interval:
    """Return KID of the whole sets, with a 95 % Student's t-interval by a delete-a-group jackknife over both sets.

    Both sets are cut into G interleaved groups, so that sets sorted by class give equal groups. With D(-g, .) the
    distance without group g of `a`, and D(., -g) without group g of `b`, the variance is

        (G - 1) / G (sum_g (D(-g, .) - mean_g D(-g, .))^2 + sum_g (D(., -g) - mean_g D(., -g))^2),

    a jackknife variance of each set (Efron and Stein 1981, https://doi.org/10.1214/aos/1176345462), added because the
    sets are independent. Every pair of vectors is used, so the interval is several times shorter than that of the
    distances of G disjoint blocks. It covers the true distance in 94 to 96 of 100 cases if the sets differ, and in 98
    if they don't: the first-order terms, which the jackknife measures exactly, are then 0, and the others are counted
    twice.

    Raises:
        ValueError: if there are fewer than 2 groups, or a set has fewer than 2 vectors for each group.
    """
    _check(a, b, 2)
    if ngroups < 2 or min(len(a), len(b)) < 2 * ngroups:
        raise ValueError(
            f"ngroups={ngroups} for sets of {len(a)} and {len(b)} vectors; choose at least 2 groups, each with at least"
            " 2 vectors of both sets."
        )
    sums = _kernel_sums(a, b, ngroups)
    everything = torch.ones(ngroups, dtype=torch.float64, device=a.device)
    without_one = everything - torch.eye(ngroups).to(everything)
    of_a = [_kernel_distance(sums, kept, everything) for kept in without_one]
    of_b = [_kernel_distance(sums, everything, kept) for kept in without_one]
    value = _kernel_distance(sums, everything, everything)
    spread = t_factor(ngroups - 1) * math.sqrt((ngroups - 1) * (pvariance(of_a) + pvariance(of_b)))
    return Interval(value, value - spread, value + spread)


class Manifold(NamedTuple):
    """Precision, recall, density and coverage: the overlap of the balls around real and around generated vectors.

    Attributes:
        precision: share of the generated vectors inside a real ball; measures fidelity.
        recall: share of the real vectors inside a generated ball; measures diversity.
        density: mean number of real balls around a generated vector, divided by k; measures fidelity, robust to
            outliers among the real vectors. 1 for equal distributions, and may be larger.
        coverage: share of the real balls that contain a generated vector; measures diversity, robust to outliers among
            the generated vectors. 1 - 2^-k for equal distributions and set sizes.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Vectors, generated: Others, k: int) -> Manifold:
    """Return precision, recall, density and coverage; each vector's ball reaches to its k-th nearest neighbour.

    Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991; Naeem et al. 2020, https://arxiv.org/abs/2002.09797. All
    four depend on k and on the set sizes.

    Raises:
        ValueError: if a set doesn't have more than k vectors.
    """
    require_count("k", k)
    _check(real, generated, k + 1)
    centre = real.double().mean(0)  # distances by inner products are more exact close to the origin
    real, generated = real.double() - centre, generated.double() - centre
    generated_radii = _radii(generated, k)
    nballs = torch.zeros(len(generated), dtype=torch.int64, device=real.device)
    nrecalled = ncovered = 0
    for distances, radii in zip(_distances(real, generated), _radii(real, k).split(CHUNK), strict=True):
        inside = distances <= radii[:, None]
        nballs += inside.sum(0)
        ncovered += int(inside.any(1).sum())
        nrecalled += int((distances <= generated_radii).any(1).sum())
    precision = (nballs > 0).double().mean().item()
    density = nballs.double().mean().item() / k
    return Manifold(precision, nrecalled / len(real), density, ncovered / len(real))


def _check(a: Vectors, b: Others, fewest: int) -> None:
    if min(len(a), len(b)) < fewest:
        raise ValueError(f"sets of {len(a)} and {len(b)} vectors; at least {fewest} are needed in each set.")


def _moments(vectors: Vectors) -> Moments:
    vectors = vectors.double()
    return Moments(vectors.mean(0), vectors.T.cov().view(vectors.shape[1], -1))


def _frechet(a: Moments, b: Moments) -> float:
    """Return the squared Frechet distance from the eigenvalues of C_a^1/2 C_b C_a^1/2.

    This symmetric matrix has the same eigenvalues as C_a C_b.
    """
    values, axes = torch.linalg.eigh(a.covariance)
    root = axes * values.clamp(min=0).sqrt()
    shared = torch.linalg.eigvalsh(root.T @ b.covariance @ root).clamp(min=0).sqrt().sum()
    between = (a.mean - b.mean).square().sum()
    return max(0.0, (between + a.covariance.trace() + b.covariance.trace() - 2 * shared).item())


def _replicates(vectors: Vectors, nreplicates: int, generator: torch.Generator) -> Iterator[Moments]:
    """Yield the moments of `nreplicates` half-samples: random halves of the groups of vectors, counted twice."""
    centre = vectors.double().mean(0)
    limit = max(20, LARGEST // vectors.shape[1] ** 2 // 2 * 2)  # the second moments of all groups are in memory at once
    ngroups = min(NGROUPS, limit, len(vectors) // 2 * 2)
    groups = [vectors.double()[i::ngroups] - centre for i in range(ngroups)]
    sizes = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    sums = torch.stack([group.sum(0) for group in groups])
    squares = torch.stack([group.T @ group for group in groups]).flatten(1)
    for _ in range(nreplicates):
        weights = torch.zeros(len(groups), dtype=torch.float64)
        weights[torch.randperm(len(groups), generator=generator)[: len(groups) // 2]] = 2
        n = weights @ sizes
        mean = (weights.to(sums) @ sums) / n.item()
        second = (weights.to(squares) @ squares).unflatten(0, (len(mean), -1))
        yield Moments(mean + centre, (second - n.item() * mean.outer(mean)) / (n.item() - 1))


def _kernel(products: Float[Tensor, "*shape"], dimensions: int) -> Float[Tensor, "*shape"]:
    return (products / dimensions + 1).pow_(3)


class KernelSums(NamedTuple):
    """Sums of the kernel over the pairs of vectors of two groups, for all groups of two sets.

    Attributes:
        within: over pairs of different vectors of the first set.
        between: over pairs of a vector of each set.
        within_other: over pairs of different vectors of the second set.
        sizes: of the groups of the first set.
        sizes_other: of the groups of the second set.
    """

    within: Float64[Tensor, "ngroups ngroups"]
    between: Float64[Tensor, "ngroups ngroups"]
    within_other: Float64[Tensor, "ngroups ngroups"]
    sizes: Float64[Tensor, " ngroups"]
    sizes_other: Float64[Tensor, " ngroups"]


def _kernel_sums(a: Vectors, b: Others, ngroups: int) -> KernelSums:
    """Return the sums of the kernel by groups; group g is every `ngroups`-th vector from the g-th on."""
    a, b = a.double(), b.double()
    mine, theirs = (torch.eye(ngroups).to(a)[torch.arange(len(vectors)) % ngroups] for vectors in (a, b))
    return KernelSums(
        _grouped_sums(a, a, mine, mine) - _own_sums(a, mine),
        _grouped_sums(a, b, mine, theirs),
        _grouped_sums(b, b, theirs, theirs) - _own_sums(b, theirs),
        mine.sum(0),
        theirs.sum(0),
    )


def _grouped_sums(
    a: Vectors, b: Others, mine: Float64[Tensor, "n ngroups"], theirs: Float64[Tensor, "m ngroups"]
) -> Float64[Tensor, "ngroups ngroups"]:
    parts = zip(a.split(CHUNK), mine.split(CHUNK), strict=True)
    return sum((members.T @ _kernel(part @ b.T, b.shape[1]) @ theirs for part, members in parts), a.new_zeros(()))


def _own_sums(a: Vectors, mine: Float64[Tensor, "n ngroups"]) -> Float64[Tensor, "ngroups ngroups"]:
    """Return the sums of the kernel over pairs of a vector with itself, on the diagonal."""
    return (_kernel(a.square().sum(1), a.shape[1]) @ mine).diag()


def _kernel_distance(
    sums: KernelSums, kept: Float64[Tensor, " ngroups"], kept_other: Float64[Tensor, " ngroups"]
) -> float:
    """Return KID of those groups of either set that have a 1."""
    n, m = kept @ sums.sizes, kept_other @ sums.sizes_other
    within = kept @ sums.within @ kept / (n * (n - 1))
    within_other = kept_other @ sums.within_other @ kept_other / (m * (m - 1))
    return (within + within_other - 2 * (kept @ sums.between @ kept_other) / (n * m)).item()


def _distances(a: Vectors, b: Others) -> Iterator[Float[Tensor, "chunk m"]]:
    """Yield the Euclidean distances from each chunk of `CHUNK` vectors of `a` to all of `b`.

    A chunk takes 40 MB if `b` has 10,000 vectors.
    """
    return (torch.cdist(part, b) for part in a.split(CHUNK))


def _radii(vectors: Vectors, k: int) -> Float[Tensor, " n"]:
    """Return the distance from each vector to its k-th nearest neighbour, not counting the vector itself."""
    return torch.cat([part.topk(k + 1, largest=False).values[:, -1] for part in _distances(vectors, vectors)])
