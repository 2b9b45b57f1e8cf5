"""Adversarial losses, averaged over images."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vae_lab.errors import require_number

Logits = Float[Tensor, "batch nlogits"]
Embedding = Float[Tensor, "batch n"]


def discriminator_loss(real: Logits, fake: Float[Tensor, "nfake nlogits"]) -> Float[Tensor, ""]:
    """Return the sum of the cross-entropies of real and of fake logits.

    Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def hinge_loss(real: Logits, fake: Float[Tensor, "nfake nlogits"]) -> Float[Tensor, ""]:
    """Return the hinge loss of a discriminator: real logits should be above 1, and fake logits below -1.

    Lim and Ye 2017, https://arxiv.org/abs/1705.02894.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def nonsaturating_loss(fake: Logits) -> Float[Tensor, ""]:
    """Return the cross-entropy of fake images with the label "real", which has a large gradient for detected fakes."""
    return F.softplus(-fake).mean()


def gradient_penalty(
    logits: Callable[[Tensor], Logits], image: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, ""]:
    """Return the R1 penalty, half the squared norm of the logit's gradient with respect to the image.

    Mescheder, Geiger and Nowozin 2018, https://arxiv.org/abs/1801.04406. Autocast is disabled, because training
    differentiates this gradient again.
    """
    with torch.autocast(image.device.type, enabled=False):
        image = (image if image.dtype == torch.float64 else image.float()).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(logits(image).mean(1).sum(), image, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2


def feature_distance(
    ours: Float[Tensor, "batch nfeatures height width"], theirs: Float[Tensor, "batch nfeatures height width"]
) -> Float[Tensor, " batch"]:
    """Return half the squared distance of two images' features: -log N(ours; theirs, I) up to a constant.

    Larsen et al. 2016, https://arxiv.org/abs/1512.09300, and Bao et al. 2017, https://arxiv.org/abs/1703.10155.
    """
    return (ours - theirs).square().sum((1, 2, 3)) / 2


class MeanMatching(nn.Module):
    """Half the squared distance between mean embeddings of real and of generated images, summed over classes.

    Bao et al. 2017, https://arxiv.org/abs/1703.10155. Unlike a cross-entropy, its gradient does not vanish when the
    adversary is always right. The distance is between moving averages, because means of one batch are noisy; the
    gradient is that of the batch's mean.

    Args:
        nclasses: number of classes; 1 matches the mean of all images.
        n: length of an embedding.
        decay: decay of the moving averages per batch.
    """

    real: Float[Tensor, "nclasses n"]
    fake: Float[Tensor, "nclasses n"]
    nbatches: Int64[Tensor, " nclasses"]

    def __init__(self, nclasses: int, n: int, decay: float) -> None:
        super().__init__()
        require_number("mean_decay of an adversary", decay, "[0, 1)")
        self.decay = decay
        self.register_buffer("real", torch.zeros(nclasses, n))
        self.register_buffer("fake", torch.zeros(nclasses, n))
        self.register_buffer("nbatches", torch.zeros(nclasses, dtype=torch.int64))

    def forward(self, real: Embedding, fake: Embedding, label: Int64[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Update the moving averages and return the distance; real and generated images share the labels."""
        member = F.one_hot(label, len(self.real)).to(real)
        count = member.sum(0)
        present = (count > 0)[:, None]
        means = [member.T @ embedding / count.clamp(min=1)[:, None] for embedding in (real, fake)]
        with torch.no_grad():
            self.nbatches += present[:, 0]
            share = (1 - self.decay) / (1 - self.decay ** self.nbatches.clamp(min=1))[:, None]  # bias correction
            for average, mean in zip((self.real, self.fake), means, strict=True):
                average.add_(present * share * (mean - average))
        fake_mean = self.fake.clone() + present * (means[1] - means[1].detach())
        return (self.real.clone() - fake_mean).square().sum() / 2
