"""Warnings about what an evaluation cannot tell."""

from collections.abc import Collection

from vae_lab.evaluation.comparison import FEWEST_FOR_FID
from vae_lab.intervals import t_factor

FEW_AVERAGED = 30
"""Below this number of images, a standard error is marked: 1.96 standard errors cover less than 95 %."""

FEW_REFERENCES = 100
"""Below this number of training images, the 1st percentile of their distances is just the smallest distance."""


def caveats(
    *, ncompared: int, naveraged: int, nreference: int, key: str, trained_against: Collection[str]
) -> list[str]:
    """Return a warning sentence for each metric with too few images, or by a network that the training used.

    Args:
        ncompared: images in the smallest set that is compared.
        naveraged: images whose likelihood is estimated with all samples.
        nreference: training images that set the copy thresholds.
        key: name of the feature extractor.
        trained_against: networks whose features the training used.
    """
    found: list[str] = []
    if key in trained_against:
        found.append(f"the run was trained against {key}, so its features flatter it: choose features=auto.")
    if ncompared < FEWEST_FOR_FID:
        found.append(
            f"FID_{key} is left out, because below {FEWEST_FOR_FID:,} images in either set (here {ncompared:,}) it is"
            f" mostly bias, for real images too: compare KID_{key}."
        )
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
