"""Warnings about evaluations with too few images."""

from vae_lab.intervals import t_factor

FEW_COMPARED = 50
"""Below this number of images, a Frechet distance is marked. Its bias is O(1/n): for two sets from the same normal in
16 dimensions (true distance 0) it is 23 with 6 vectors, 14 with 12, 3.4 with 50 and 0.9 with 200."""

FEW_AVERAGED = 30
"""Below this number of images, a standard error is marked: 1.96 standard errors cover less than 95 %."""

FEW_REFERENCES = 100
"""Below this number of training images, the 1st percentile of their distances is just the smallest distance."""


def caveats(*, ncompared: int, naveraged: int, nreference: int, key: str) -> list[str]:
    """Return one warning sentence for each metric that is computed from too few images.

    Args:
        ncompared: images in each set of samples.
        naveraged: images whose likelihood is estimated with all samples.
        nreference: training images that set the copy thresholds.
        key: name of the feature extractor.
    """
    found: list[str] = []
    if ncompared < FEW_COMPARED:
        found.append(f"FID_{key} of {ncompared} images is mostly bias, for real images too: compare KID_{key}.")
    if naveraged < FEW_AVERAGED:
        factor = t_factor(naveraged - 1)
        found.append(
            f"the standard error of -log p(x) comes from {naveraged} images: a 95 % interval needs {factor:.1f} of them"
            " on either side, not 1.96."
        )
    if nreference < FEW_REFERENCES:
        found.append(
            f"the threshold for near copies is the 1st percentile of {nreference} distances, which is their minimum:"
            " the share of near copies is unreliable."
        )
    return found
