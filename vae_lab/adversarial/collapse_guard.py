"""Detection of a collapse of adversarial training."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vae_lab.errors import require_count, require_number

WATCHED = ("accuracy_real", "accuracy_fake", "cross_entropy", "spread", "loss")


class BalanceGuard(nn.Module):
    """Detects a collapse of adversarial training and scales the adversarial weight down after each collapse.

    Training has collapsed if the loss is not finite, if the samples of a batch are nearly identical, if the
    discriminator is always right (its gradients vanish), if it gives the same answer for all images, or if it is worse
    than chance. Every `every` batches, running means over about `every` batches are checked. Training that was never
    balanced fails only after `patience` checks. Each collapse doubles the number of checks before the next one can be
    reported. `most` collapses are allowed; the next one ends the run.

    Args:
        every: batches between two checks.
        sure: the discriminator is always right if its accuracy on real and on generated images is above this value.
        blind: it gives the same answer for all images if its accuracy on either is below this value.
        worst: it is worse than chance if the sum of its cross-entropies on real and on generated images is above this
            value; chance is 2 ln 2.
        spread: samples are nearly identical if the standard deviation of their pixels over the batch, relative to that
            of real images, is below this value.
        patience: number of checks after which training that was never balanced counts as collapsed.
        factor: factor of the adversarial weight for each collapse.
        most: number of allowed collapses.

    Attributes:
        scale: product of the factors so far.
        ncollapses: number of collapses so far.
        well: whether the last check passed, also during a waiting time.
    """

    means: Float[Tensor, " watched"]
    scale: Float[Tensor, ""]
    nbatches: Int64[Tensor, ""]
    nlooks: Int64[Tensor, ""]
    good: Bool[Tensor, ""]
    ncollapses: Int64[Tensor, ""]

    def __init__(
        self,
        *,
        every: int,
        sure: float,
        blind: float,
        worst: float,
        spread: float,
        factor: float,
        patience: int,
        most: int,
    ) -> None:
        super().__init__()
        require_count("task.guard.every", every)
        require_count("task.guard.patience", patience)
        require_count("task.guard.most", most)
        for name, value in (("sure", sure), ("blind", blind), ("spread", spread), ("factor", factor)):
            require_number(f"task.guard.{name}", value, "[0, 1]")
        require_number("task.guard.worst", worst, "(0, inf]", "; chance is 1.39")
        self.every = every
        self.sure = sure
        self.blind = blind
        self.worst = worst
        self.spread = spread
        self.factor = factor
        self.patience = patience
        self.most = most
        self.well = False
        self.register_buffer("means", torch.zeros(len(WATCHED)))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("nbatches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("nlooks", torch.zeros((), dtype=torch.int64))
        self.register_buffer("good", torch.zeros((), dtype=torch.bool))
        self.register_buffer("ncollapses", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, **measured: Float[Tensor, ""]) -> None:
        """Update the running means with the values of one batch, named as in `WATCHED`."""
        self.nbatches += 1
        share = self.nbatches.reciprocal().clamp(min=2 / self.every)
        self.means += share * (torch.stack([measured[name].float() for name in WATCHED]) - self.means)

    def look(self) -> str | None:
        """Return a description if training has collapsed, else None; call it once every `every` batches."""
        self.nlooks += 1
        complaint = self.lost() or self.imbalance()
        self.well = complaint is None
        self.good |= self.well
        wait = max(2 ** int(self.ncollapses), 1 if self.good else self.patience)
        return complaint if self.nlooks >= wait or self.lost() is not None else None

    def imbalance(self) -> str | None:
        """Return a description of how the running means show a collapse; None if they show none."""
        real, fake, cross_entropy, spread, _ = self.means.tolist()
        if min(real, fake) > self.sure:
            return f"the discriminator is always right (on {real:.1%} of real and {fake:.1%} of generated images)"
        if min(real, fake) < self.blind:
            right = f"right on {real:.1%} of real, {fake:.1%} of generated images"
            return f"the discriminator gives the same answer for all ({right})"
        if cross_entropy > self.worst:
            return f"the discriminator is worse than chance (cross-entropy {cross_entropy:.3g}; chance is 1.39)"
        if spread < self.spread:
            return f"samples are nearly identical (they vary {spread:.2f} times as much as real images)"
        return None

    def lost(self) -> str | None:
        """Return a description if the loss is not finite, else None; this collapse is reported at once."""
        loss = float(self.means[WATCHED.index("loss")])
        return None if abs(loss) < float("inf") else f"the loss is {loss}"

    def lower(self) -> None:
        """Record a collapse: lower the scale of the adversarial weight and reset the running means."""
        self.scale *= self.factor
        self.ncollapses += 1
        self.means.zero_()
        self.nbatches.zero_()
        self.nlooks.zero_()
