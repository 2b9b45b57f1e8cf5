"""Choice and caching of feature extractors."""

import importlib.util
import logging
from pathlib import Path

import torch

from vae_lab.data.images import ImageSet
from vae_lab.errors import DataError
from vae_lab.evaluation.metrics.features import DigitClassifier, Extractor, RandomVGG, train_classifier
from vae_lab.evaluation.metrics.inception import Inception
from vae_lab.system.atomic import whole
from vae_lab.system.folders import cache_folder, torch_folder

log = logging.getLogger(__name__)

NAMES = ("auto", "digits", "vgg", "inception")
TRAINING = {"nbatches": 700, "batch_size": 128, "learning_rate": 1e-2, "seed": 0}
"""Of the classifier; one that was trained otherwise is another extractor."""


def load_extractor(name: str, training: ImageSet) -> Extractor:
    """Return the extractor called `name`, trained on the images where it must be.

    Args:
        name: "inception", torchmetrics' own, whose weights must be on the disk; "digits", a classifier of the training
            labels; "vgg", random convolutions; "auto": the first of these three that can be had.
        training: the training part, grey.

    Raises:
        ValueError: if there is none of that name, or the images have no labels to classify.
        DataError: if Inception's weights are asked for and not there.
    """
    if name not in NAMES:
        raise ValueError(f"features={name}: there are {', '.join(NAMES)}.")
    nchannels = training.pixels(slice(1)).shape[1]
    there = inception_weights().is_file() and importlib.util.find_spec("torch_fidelity") is not None
    if name == "inception" and not there:
        raise DataError(
            f"features=inception needs `pip install torch-fidelity` and its weights at {inception_weights()}; choose"
            " features=auto, which needs neither."
        )
    if name == "inception" or (name == "auto" and there):
        return Inception(inception_weights())
    if name == "vgg" or (name == "auto" and len(training.labels.unique()) < 2):
        return RandomVGG(nchannels)
    return trained_classifier(training)


def trained_classifier(training: ImageSet) -> DigitClassifier:
    """Return the classifier of these images, from the cache if it was trained on exactly them before."""
    path = cache_folder() / f"digits-{training.digest()}.pt"
    nchannels, nclasses = training.pixels(slice(1)).shape[1], int(training.labels.max()) + 1
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored["training"] == TRAINING:
            model = DigitClassifier(nchannels, nclasses)
            model.load_state_dict(stored["weights"])
            return model.eval().requires_grad_(requires_grad=False)
    except FileNotFoundError:
        pass
    except Exception as error:  # whatever a damaged file raises, training anew is the cure
        log.warning("%s cannot be read (%s) and is made anew", path, type(error).__name__)
    log.info("training the classifier whose features compare images: once for these images, kept in %s", path.parent)
    model = train_classifier(training, **TRAINING)
    try:
        with whole(path) as temporary:
            torch.save({"training": TRAINING, "weights": model.state_dict()}, temporary)
    except OSError as error:
        log.warning("the classifier cannot be kept in %s: %s", path.parent, error.strerror)
    return model


def inception_weights() -> Path:
    """Return where torch-fidelity keeps Inception's weights once it has downloaded them."""
    return torch_folder() / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
