"""Anomaly detection on images in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    from vae_lab.data.pictures import Pictures
    from vae_lab.detection.calibration import CalibrationSettings
    from vae_lab.detection.detector import Detections


def score_images(
    run: str | Path | Sequence[str | Path],
    images: "Pictures",
    score: str | Mapping[str, object] = "auto",
    alpha: float = 0.05,
    fdr: float | None = None,
    *,
    layout: str | None = None,
    **settings: "Unpack[CalibrationSettings]",
) -> "Detections":
    """Return anomaly scores, p-values and flags of images, equal to those of the command `detect`.

    Args:
        run: a run folder or a checkpoint file; several for an ensemble.
        images: PIL images, paths, arrays or tensors; see `vae_lab.data.pictures`. They are rounded to 8 bits.
        score: name of a file in conf/score, or the config of another score.
        alpha: largest expected share of normal images that are flagged.
        fdr: if given, largest expected share of normal images among the flagged ones, in place of alpha.
        layout: the axes of arrays and tensors, such as "HWC"; None recognises them.
        settings: fields of `vae_lab.detection.calibration.Calibration`.

    Raises:
        DataError: if a run cannot be read, or its images when the calibration is not cached.
        ValueError: if an array is not one of images, or the score does not fit the run.

    Example:
        >>> import torch
        >>> from vae_lab import score_images
        >>> noise = torch.rand(5, 1, 28, 28)
        >>> run = "outputs/digits"  # of train_run's example
        >>> detections = score_images(run, noise, ncalibration=100, nfit=500)  # fewer images than by default
        >>> detections.flagged
        tensor([True, True, True, True, True])
    """
    from vae_lab.data.files.places import paths
    from vae_lab.data.grids import to_uint8
    from vae_lab.data.pictures import read_pictures
    from vae_lab.detection.calibration import Calibration, check_level, load_detector, score_config
    from vae_lab.detection.conformal import named_level, require_level
    from vae_lab.detection.detector import warn_of_seen
    from vae_lab.runs.folder import find_run
    from vae_lab.runs.load import load_model

    how = Calibration(**settings)
    require_level(how.ncalibration, *named_level(alpha, fdr))
    runs = [find_run(one) for one in paths(run, "run")]
    check_level(runs, how, alpha, fdr)
    pixels = read_pictures(images, load_model(runs[0], how.checkpoint, trust=how.trust), layout).pixels
    pixels = to_uint8(pixels) if pixels.is_floating_point() else pixels.cpu()
    detector = load_detector(runs, score_config(score) if isinstance(score, str) else dict(score), how)
    judged = detector.judge(detector.examine(pixels), alpha, fdr)
    warn_of_seen(judged)
    return judged
