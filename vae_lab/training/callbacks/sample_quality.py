"""`SampleQuality`: the kernel distance (KID) of samples and of reconstructions, at each validation."""

import logging

import torch
from jaxtyping import Float
from lightning import Callback, Trainer
from torch import Tensor

from vae_lab.data.images import ImageSet
from vae_lab.errors import require_count
from vae_lab.evaluation.metrics.reconstruction import reconstruct_set
from vae_lab.evaluation.metrics.two_sample import kernel_distance
from vae_lab.features.pyramid import FeaturePyramid
from vae_lab.runs.inference import every_pixel
from vae_lab.system.randomness import seeded
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)


class SampleQuality(Callback):
    """Logs {val,test}/kid_<network>: KID x 1000 between samples from the prior and the images of that part.

    {val,test}/rkid_<network> is the same for the reconstructions of these images, decoded from the posterior means.

    The latents of samples are the same at each validation, so that values of one run differ by the weights alone. The
    features are those of a pretrained network's last convolution, averaged over places. The network should not be the
    one against which the run trains.

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
        """Log the distances of samples and of reconstructions from the images of a part of the data."""
        images: ImageSet = getattr(trainer.datamodule.splits, part)  # pyright: ignore[reportAttributeAccessIssue]
        if part not in self.real:
            self.real[part] = self.vectors(every_pixel(images).to(task.device))
        with seeded("quality", task.seed), torch.no_grad():
            model = task.model
            if model.nclasses:
                model = model.given(torch.arange(self.nsamples, device=task.device) % model.nclasses)
            samples = model.generative(model.prior().sample((self.nsamples,))).mean
        decoded = reconstruct_set(task.model, images).decoded.to(task.device)
        kid, rkid = (1000 * kernel_distance(self.real[part], self.vectors(made)) for made in (samples, decoded))
        task.log_dict({f"{part}/kid_{self.network}": kid, f"{part}/rkid_{self.network}": rkid})
        line = "step %d: %s/kid_%s %.1f (KID x 1000 of %d samples and %d real images), of their reconstructions %.1f"
        log.info(line, trainer.global_step, part, self.network, kid, self.nsamples, len(self.real[part]), rkid)

    @torch.no_grad()
    def vectors(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n nfeatures"]:
        """Return a feature vector for each image, on the CPU."""
        return torch.cat([self.pyramid.embed(part).cpu() for part in images.split(32)])
