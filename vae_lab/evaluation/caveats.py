"""Warnings about evaluations with too few images."""

from vae_lab.intervals import t_factor

FEW_COMPARED = 50
"""Images of a row below which a Frechet distance is marked. It has a bias of O(1/n): two sets of one normal in 16
dimensions, whose distance is 0, come out at 23 with 6 vectors, 14 with 12, 3.4 with 50 and 0.9 with 200."""

FEW_AVERAGED = 30
"""Images of a mean below which its standard error is marked: 1.96 of it are then less than 95 %."""

FEW_REFERENCES = 100
"""Training images below which their 1st percentile is no more than the least."""


def caveats(*, ncompared: int, naveraged: int, nreference: int, key: str) -> list[str]:
    """Return in sentences what the numbers of so few images don't say; nothing where there are enough.

    Args:
        ncompared: images of each row of samples.
        naveraged: images whose likelihood is estimated with all samples.
        nreference: training images that tell how near is too near.
        key: the extractor's name.
    """
    found: list[str] = []
    if ncompared < FEW_COMPARED:
        found.append(
            f"FID_{key} of {ncompared} images is mostly its bias, which the row of real images has too: compare"
            f" KID_{key}."
        )
    if naveraged < FEW_AVERAGED:
        factor = t_factor(naveraged - 1)
        found.append(
            f"the standard error of -log p(x) is that of {naveraged} images: a 95 % interval needs {factor:.1f} of"
            " them on either side, not 1.96."
        )
    if nreference < FEW_REFERENCES:
        found.append(
            f"near copies are told by the 1st percentile of {nreference} distances, which is the least of them: their"
            " share says little."
        )
    return found
