"""Detection of a collapse between a decoder and its discriminator."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vae_lab.errors import require_count, require_number

WATCHED = ("accuracy_real", "accuracy_fake", "cross_entropy", "spread", "loss")


class BalanceGuard(nn.Module):
    """Detects a collapse of adversarial training, and scales the adversarial weight down after each.

    Training has collapsed if its loss is not finite; if all samples of a batch look alike; if the discriminator is
    always right, so that its gradients vanish; or if it calls everything real, or everything fake, or is worse than
    chance. Running means over about `every` batches are checked every `every` batches. Training that was never balanced
    has `patience` checks to become so. After each collapse the guard waits twice as many checks, and after `most` of
    them the next one ends the run.

    Args:
        every: batches between two checks.
        sure: accuracy on real and on generated images above which the discriminator is always right.
        blind: accuracy on either below which it gives the same answer for all.
        worst: sum of the cross-entropies of real and generated images above which it is worse than chance (2 ln 2).
        spread: standard deviation of a sample's pixels over the batch, as a share of that of real images, below which
            samples look alike.
        patience: checks after which training that was never balanced counts as collapsed.
        factor: by which each collapse scales the adversarial weight.
        most: collapses that are allowed.

    Attributes:
        scale: product of those factors.
        ncollapses: collapses so far.
        well: whether the last check found nothing wrong, also while the guard waits.
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
        require_number("task.guard.worst", worst, "(0, inf]", "; a coin has 1.39")
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
        """Take a batch's numbers, named as in `WATCHED`, into the running means."""
        self.nbatches += 1
        share = self.nbatches.reciprocal().clamp(min=2 / self.every)
        self.means += share * (torch.stack([measured[name].float() for name in WATCHED]) - self.means)

    def look(self) -> str | None:
        """Return a sentence on what is wrong, or None; to be called every `every` batches."""
        self.nlooks += 1
        complaint = self.lost() or self.imbalance()
        self.well = complaint is None
        self.good |= self.well
        wait = max(2 ** int(self.ncollapses), 1 if self.good else self.patience)
        return complaint if self.nlooks >= wait or self.lost() is not None else None

    def imbalance(self) -> str | None:
        """Return a sentence on what the running means show, or None."""
        real, fake, cross_entropy, spread, _ = self.means.tolist()
        if min(real, fake) > self.sure:
            return f"the discriminator is always right (on {real:.1%} of real and {fake:.1%} of generated images)"
        if min(real, fake) < self.blind:
            right = f"right on {real:.1%} of real, {fake:.1%} of generated images"
            return f"the discriminator gives the same answer for all ({right})"
        if cross_entropy > self.worst:
            return f"the discriminator is worse than chance (cross-entropy {cross_entropy:.3g}; chance is 1.39)"
        if spread < self.spread:
            return f"samples are alike (they vary {spread:.2f} times as much as real images)"
        return None

    def lost(self) -> str | None:
        """Return a sentence if the loss is not finite, or None; that needs no patience."""
        loss = float(self.means[WATCHED.index("loss")])
        return None if abs(loss) < float("inf") else f"the loss is {loss}"

    def lower(self) -> None:
        """Note a collapse: lower the scale and begin the means anew."""
        self.scale *= self.factor
        self.ncollapses += 1
        self.means.zero_()
        self.nbatches.zero_()
        self.nlooks.zero_()
