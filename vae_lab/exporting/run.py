"""Export of a run's model to ONNX files or programs of torch.export, with a description of their inputs and outputs."""

import json
import logging
from pathlib import Path
from typing import Any

from vae_lab.errors import require_choice, require_number
from vae_lab.exporting.graphs import FORMATS, require_onnx, write_checked
from vae_lab.exporting.parts import ExportedScore, Part, parts_of
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.configs import build
from vae_lab.runs.folder import locate, read_summary
from vae_lab.runs.load import load_model
from vae_lab.runs.packages import Trust
from vae_lab.runs.provenance import versions
from vae_lab.system.atomic import write_whole
from vae_lab.system.folders import expanded, require_writable

log = logging.getLogger(__name__)

DESCRIPTION = "export.json"
NO_DIFFUSERS = (
    "to=diffusers: no model of vae_lab consists of the blocks of diffusers' AutoencoderKL, which halves by strided"
    " convolutions and decodes to the pixels without a sigmoid; choose to=hub, onnx or torch_export."
)


def export_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    to: str = "onnx",
    score: dict[str, Any] | None = None,
    checkpoint: str = "best",
    tolerance: float = 1e-4,
    trust: Trust = None,
) -> dict[str, Any]:
    """Export the encoder, the decoder and a score of a run's model, and return what is written to `export.json`.

    Args:
        run: the run folder, or a checkpoint file.
        out: the folder to write to; None stands for `exported/<to>` in the run folder.
        to: "onnx" or "torch_export".
        score: config of the anomaly score; None exports none.
        checkpoint: "best" or "last".
        tolerance: largest accepted difference from the model on 100 inputs; from numbers above 1, it is relative.
        trust: packages other than vae_lab whose classes the run may use.

    Raises:
        ValueError: if a setting is wrong, or a part cannot be exported or differs from the model; its file is not kept.

    Example:
        >>> from vae_lab.exporting.run import export_run
        >>> described = export_run("outputs/digits", "exported", to="torch_export")  # the run of train_run's example
        >>> described["files"]["decoder.pt2"]["inputs"]
        {'z': ['batch', 40]}
    """
    if to == "diffusers":
        raise ValueError(NO_DIFFUSERS)
    require_choice("to", to, [*FORMATS, "hub"])
    if to == "hub":
        raise ValueError("to=hub is written by vae_lab.exporting.hub.share_run; choose onnx or torch_export.")
    require_number("tolerance", tolerance, "(0, inf)")
    chosen = None if score is None else build_score(score)
    if to == "onnx":
        require_onnx()
    place = locate(run, checkpoint)
    folder = place.folder / "exported" / to if out is None else expanded(out)
    if folder.is_file() or folder.suffix in {form.suffix for form in FORMATS.values()}:
        raise ValueError(f"out={out} is the name of a file; name a folder, in which export writes one for each part.")
    require_writable(folder)
    model = load_model(run, checkpoint, trust=trust)
    files = export_model(model, folder, to=to, score=chosen, tolerance=tolerance)
    described = {
        **place.names(),
        "to": to,
        "model": {name: getattr(model, name) for name in ("nlatent", "channels", "image_size", "nclasses")},
        "classes": read_summary(place.folder).get("classes", []) if model.nclasses else [],
        "score": None if chosen is None else repr(chosen),
        "files": files,
        "versions": {name: version for name, version in versions().items() if name in {"vae_lab", "torch"}},
    }
    write_whole(folder / DESCRIPTION, json.dumps(described, indent=2).encode())
    log.info("%s in %s", ", ".join([*files, DESCRIPTION]), folder)
    return described


def export_model(
    model: LatentModel, folder: Path, *, to: str, score: ExportedScore | None, tolerance: float
) -> dict[str, Any]:
    """Write a file for each part of a model, and return the description of each by file name."""
    files: dict[str, Any] = {}
    for part in parts_of(model, score):
        path = folder / f"{part.name}{FORMATS[to].suffix}"
        difference = write_checked(part, to, path, tolerance)
        log.info("%s differs from the model by at most %.1e on 100 inputs", path.name, difference)
        files[path.name] = {**describe(part), "largest_difference": difference}
    return files


def describe(part: Part) -> dict[str, Any]:
    """Return the names and shapes of a part's inputs and outputs."""
    outputs = dict(zip(part.outputs, part(*part.inputs.values()), strict=True))
    return {
        side: {name: ["batch", *tensor.shape[1:]] for name, tensor in tensors.items()}
        for side, tensors in (("inputs", part.inputs), ("outputs", outputs))
    }


def build_score(config: dict[str, Any]) -> ExportedScore:
    """Return the anomaly score of a config.

    Raises:
        ValueError: if it is not a function of the image and the model alone.
    """
    name = str(config.get("_target_", "")).rpartition(".")[2]
    if name not in {kind.__name__ for kind in ExportedScore.__args__}:
        raise ValueError(
            f"score: {name or 'several scores'} cannot be exported, because it searches, decodes many latents or"
            " compares with images of the run; choose score=neg_elbo, rate or reconstruction_error."
        )
    return build(config)
