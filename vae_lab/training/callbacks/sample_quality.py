"""`SampleQuality`: the kernel distance (KID) of samples from the prior, at each validation."""

import logging

import torch
from jaxtyping import Float
from lightning import Callback, Trainer
from torch import Tensor

from vae_lab.data.images import ImageSet
from vae_lab.errors import require_count
from vae_lab.evaluation.metrics.two_sample import kernel_distance
from vae_lab.features.pyramid import FeaturePyramid
from vae_lab.runs.inference import every_pixel
from vae_lab.system.randomness import seeded
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)


class SampleQuality(Callback):
    """Logs {val,test}/kid_<network>: KID x 1000 between samples from the prior and the images of that part.

    The latents are the same at each validation, so that values of one run differ by the weights alone. The features are
    those of a pretrained network's last convolution, averaged over places. The network should not be the one against
    which the run trains.

    Args:
        network: the pretrained network, "lite0" or "lite2".
        nsamples: number of samples.
    """

    def __init__(self, *, network: str, nsamples: int) -> None:
        require_count("callbacks.quality.nsamples", nsamples, 2)
        self.network = network
        self.pyramid = FeaturePyramid(network, "callbacks.quality.network")
        self.nsamples = nsamples
        self.real: dict[str, Tensor] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Log the distance from the validation images."""
        if not trainer.sanity_checking:
            self.measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Log the distance from the test images."""
        self.measure(trainer, pl_module, "test")

    def measure(self, trainer: Trainer, task: Task, part: str) -> None:
        """Generate the samples and log their distance from the images of a part of the data."""
        if part not in self.real:
            images: ImageSet = getattr(trainer.datamodule.splits, part)  # pyright: ignore[reportAttributeAccessIssue]
            self.real[part] = self.vectors(every_pixel(images).to(task.device))
        with seeded("quality", task.seed), torch.no_grad():
            model = task.model
            if model.nclasses:
                model = model.given(torch.arange(self.nsamples, device=task.device) % model.nclasses)
            samples = model.generative(model.prior().sample((self.nsamples,))).mean
        distance = 1000 * kernel_distance(self.real[part], self.vectors(samples))
        task.log(f"{part}/kid_{self.network}", distance)
        line = "step %d: %s/kid_%s %.1f (KID x 1000 of %d samples and %d real images)"
        log.info(line, trainer.global_step, part, self.network, distance, self.nsamples, len(self.real[part]))

    @torch.no_grad()
    def vectors(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n nfeatures"]:
        """Return a feature vector for each image, on the CPU."""
        return torch.cat([self.pyramid.embed(part).cpu() for part in images.split(32)])
