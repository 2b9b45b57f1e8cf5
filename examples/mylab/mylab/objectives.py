"""An objective that holds the rate near a number of nats."""

from vae_lab.data.sample import Sample
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import Objective, Terms, elbo_terms
from vae_lab.probability.schedules import Schedule, value_at


class TargetRate(Objective):
    """Distortion plus `weight` times the distance of the batch's mean rate from `target`.

    The idea is that of Burgess et al. 2018, https://arxiv.org/abs/1804.03599, who raise the target during training.

    Args:
        target: nats per image, or a schedule of them.
        weight: of the distance.
    """

    def __init__(self, target: float | Schedule, weight: float) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"objective.weight must be 0 or a positive number, not {weight}.")
        self.target = target
        self.weight = weight

    def __call__(self, model: LatentModel, batch: Sample, step: int) -> Terms:
        """Return the terms of each image of the batch."""
        terms = elbo_terms(model(batch.image), batch.image)
        distance = (terms.rate.mean() - value_at(self.target, step)).abs()
        return terms._replace(loss=terms.distortion + self.weight * distance)
