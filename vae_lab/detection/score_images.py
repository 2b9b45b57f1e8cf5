"""Anomaly detection on images in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    from torch import Tensor

    from vae_lab.detection.calibration import CalibrationSettings
    from vae_lab.detection.detector import Detections


def score_images(
    run: str | Path | Sequence[str | Path],
    images: "Tensor",
    score: str | Mapping[str, object] = "auto",
    alpha: float = 0.05,
    fdr: float | None = None,
    **settings: "Unpack[CalibrationSettings]",
) -> "Detections":
    """Return anomaly scores, p-values and flags of images, equal to those of the command `detect`.

    Args:
        run: a run folder or a checkpoint file; several for an ensemble.
        images: [n, channels, height, width], floats in [0, 1] or uint8, of the run's image size.
        score: name of a file in conf/score, or the config of another score.
        alpha: largest expected share of normal images that are flagged.
        fdr: if given, largest expected share of normal images among the flagged ones, in place of alpha.
        settings: fields of `vae_lab.detection.calibration.Calibration`.

    Raises:
        DataError: if a run cannot be read, or its images when the calibration is not cached.
        ValueError: if the images have another size or range, or the score does not fit the run.

    Example:
        >>> import torch
        >>> from vae_lab import score_images
        >>> noise = torch.rand(5, 1, 28, 28)
        >>> detections = score_images("outputs/digits", noise)  # the run of train_run's example
        >>> detections.flagged
        tensor([True, True, True, True, True])
    """
    from vae_lab.data.images import require_size
    from vae_lab.detection.calibration import Calibration, check_level, load_detector, score_config
    from vae_lab.detection.conformal import named_level, require_level
    from vae_lab.detection.detector import to_pixels, warn_of_seen
    from vae_lab.runs.folder import find_run

    how, pixels = Calibration(**settings), to_pixels(images)
    require_level(how.ncalibration, *named_level(alpha, fdr))
    runs = [find_run(one) for one in ([run] if isinstance(run, str | Path) else run)]
    check_level(runs, how, alpha, fdr)
    detector = load_detector(runs, score_config(score) if isinstance(score, str) else dict(score), how)
    require_size(pixels, detector.model.channels, detector.model.image_size)
    judged = detector.judge(detector.examine(pixels), alpha, fdr)
    warn_of_seen(judged)
    return judged
