"""Detection of a collapse between a decoder and its discriminator."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vae_lab.errors import require_counts

WATCHED = ("accuracy_real", "accuracy_fake", "cross_entropy", "spread", "loss")


class BalanceGuard(nn.Module):
    """Keeps running means of what tells of a collapse, and the factor by which the adversarial weight was lowered.

    A game has collapsed when its loss is no number; when samples have become alike; when the discriminator is always
    right, so that nothing can be learnt from it any more; or when it calls everything real or everything made, or is
    far worse than a coin, and has learnt nothing itself. All of it must last: the running means reach back about
    `every` batches, and are looked at as often. What was never good has not collapsed, so a game has `patience` looks
    to become good. After each collapse the guard waits twice as long before it looks again, and one more than `most`
    ends the run, so that a game that cannot be won is not begun anew for ever.

    Args:
        every: batches between two looks.
        sure: accuracy on real and on made images above which the discriminator is always right.
        blind: accuracy on either below which it says the same of all.
        worst: cross-entropy of real and made images above which it is worse than a coin, whose is 2 ln 2 = 1.39.
        spread: standard deviation of a sample's pixels over the batch, as a share of real images', below which samples
            are alike.
        patience: looks after which a game that was never good counts as collapsed.
        factor: by which each collapse lowers the adversarial weight.
        most: collapses after which one more ends the run.

    Attributes:
        scale: the product of those factors.
        ncollapses: how many there were.
        well: whether the last look found nothing wrong, be it said or not.
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
        require_counts(task__guard__every=every, task__guard__patience=patience, task__guard__most=most)
        for name, value in (("sure", sure), ("blind", blind), ("spread", spread), ("factor", factor)):
            if not 0 <= value <= 1:
                raise ValueError(f"task.guard.{name} must be between 0 and 1, not {value}.")
        if not worst > 0:
            raise ValueError(f"task.guard.worst must be a positive number, not {worst}; a coin has 1.39.")
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
        """Return what has gone wrong, in words, or None; to be asked every `every` batches."""
        self.nlooks += 1
        complaint = self.lost() or self.imbalance()
        self.well = complaint is None
        self.good |= self.well
        wait = max(2 ** int(self.ncollapses), 1 if self.good else self.patience)
        return complaint if self.nlooks >= wait or self.lost() is not None else None

    def imbalance(self) -> str | None:
        """Return what the running means tell of, in words, or None."""
        real, fake, cross_entropy, spread, _ = self.means.tolist()
        if min(real, fake) > self.sure:
            return f"the discriminator is always right (on {real:.1%} of real and {fake:.1%} of made images)"
        if min(real, fake) < self.blind:
            return f"the discriminator says the same of all (right on {real:.1%} of real, {fake:.1%} of made images)"
        if cross_entropy > self.worst:
            return f"the discriminator is worse than a coin (cross-entropy {cross_entropy:.3g}, of a coin 1.39)"
        if spread < self.spread:
            return f"samples are alike (they vary {spread:.2f} times as much as real images)"
        return None

    def lost(self) -> str | None:
        """Return that the loss is no number, or None; no running mean has to last for that."""
        loss = float(self.means[WATCHED.index("loss")])
        return None if abs(loss) < float("inf") else f"the loss is {loss}"

    def lower(self) -> None:
        """Note a collapse: lower the scale and begin the means anew."""
        self.scale *= self.factor
        self.ncollapses += 1
        self.means.zero_()
        self.nbatches.zero_()
        self.nlooks.zero_()
