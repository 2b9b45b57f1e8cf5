"""Evaluation of a run: the metrics of docs/evaluation.md as JSON and as an HTML page."""

import json
import logging
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.data.datamodule import ImageData
from vae_lab.data.images import ImageSet
from vae_lab.evaluation.caveats import caveats
from vae_lab.evaluation.comparison import compare_vectors, extract_features
from vae_lab.evaluation.extractors import load_extractor, trained_classifier
from vae_lab.evaluation.html import Page, render
from vae_lab.evaluation.metrics.class_accuracy import class_accuracy
from vae_lab.evaluation.metrics.features import DigitClassifier, EfficientNetLite, Extractor
from vae_lab.evaluation.metrics.latents import active_units, elbo_surgery
from vae_lab.evaluation.metrics.likelihood import SetLikelihood, set_likelihood
from vae_lab.evaluation.metrics.memorisation import Memorisation, copy_thresholds, memorisation
from vae_lab.evaluation.metrics.power_spectrum import band_ratios
from vae_lab.evaluation.metrics.reconstruction import Reconstruction, reconstruct
from vae_lab.evaluation.protocol import (
    check_settings,
    choose_chunk,
    choose_sizes,
    limit_settings,
    load_finite_model,
    log_sizes,
    networks_of_training,
)
from vae_lab.models.vae import VAE
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.scores import bits_per_dimension
from vae_lab.runs.folder import locate
from vae_lab.runs.identity import PROTOCOL_WITHOUT_EFFECT, describe_changes, differences, identity
from vae_lab.runs.inference import decode_samples, every_pixel
from vae_lab.runs.load import load_data, weights_digest
from vae_lab.runs.packages import Trust
from vae_lab.runs.provenance import device_name, versions
from vae_lab.sampling.mixture import fit_mixture
from vae_lab.system.atomic import require_folder_name, write_whole
from vae_lab.system.devices import choose_device
from vae_lab.system.folders import require_writable
from vae_lab.system.progress import track

log = logging.getLogger(__name__)

ACTIVE = 0.01
"""A latent is active if the variance of its posterior mean is above this."""

NCODES, NDRAWS = 10_000, 2000
"""Number of posteriors in the aggregate posterior, and of draws from it, for the mutual information."""

NEACH = 200
"""Generated images per class for the class accuracy."""

Pixels = Float[Tensor, "n channels height width"]
Reference = Float[Tensor, "m channels height width"]


def evaluate_run(run: Path, folder: Path, *, split: str, checkpoint: str, root: str | None, seed: int, device: str,
           features: str, nsamples: int | None, nll_images: int | None, ngenerated: int | None, nbound: int,
           chunk: int | None, trust: Trust = None, **settings: int) -> dict[str, Any]:  # fmt: skip
    """Return the metrics of docs/evaluation.md and write them to `folder` as evaluation-<split>.json and .html.

    Args:
        run: a run folder or a checkpoint file.
        folder: the output folder. An earlier evaluation of other weights or with another protocol is renamed.
        split: the part of the data to evaluate on.
        checkpoint: "best" or "last".
        root: the folder that holds the images now; None for the one stored in the run.
        seed: seed of every random draw.
        device: "auto", "cpu" or "cuda".
        features: name of the feature extractor; see `load_extractor`.
        nsamples: latents per image for the likelihood; None chooses by device, here and in the next two.
        nll_images: images whose likelihood is estimated with `nsamples` latents.
        ngenerated: images per sampler.
        nbound: latents per image for the cheap bound that extends the estimate to the other images.
        chunk: latents decoded at once; None takes fewer for larger images.
        trust: packages, besides vae_lab, whose classes the run may use.
        settings: ngroups, nreplicates, k, nreference and side of the comparisons.

    Raises:
        ValueError, DataError, DivergedError, StorageError: before any long computation.
    """
    started = time.perf_counter()
    check_settings(split, seed, nbound=nbound, **settings)
    require_folder_name(folder)
    where = choose_device(device)
    model = load_finite_model(run, checkpoint, trust).to(where)
    require_writable(folder)
    data = load_data(run, checkpoint, root=root, trust=trust)
    images, other_part = getattr(data.eval_splits, split), "test" if split == "val" else "val"
    nunseen = len(getattr(data.eval_splits, other_part))
    chunk = choose_chunk(chunk, images.pixels(slice(1)).numel())
    sizes = choose_sizes((nsamples, nll_images, ngenerated), where, len(images), nunseen)
    settings = limit_settings(settings, min(len(images), sizes.ncompared))
    log_sizes(sizes, where, len(images))
    train = data.raw_splits.train
    trained_against = networks_of_training(run, checkpoint)
    extractor = load_extractor(features, train, trained_against).to(where)
    few = log_caveats(
        ncompared=min(sizes.ncompared, len(images)), naveraged=sizes.nll_images, trained_against=trained_against,
        nreference=min(settings["nreference"], len(train)), key=extractor.key,
    )  # fmt: skip
    others = [EfficientNetLite(name) for name in trained_against if name != extractor.key]
    counts = {"nsamples": sizes.nsamples, "nimages": sizes.nll_images, "nbound": nbound, "chunk": chunk}
    likelihood = set_likelihood(model, images, **counts, seed=seed, track=track)
    reconstruction = reconstruct(model, images)
    reference = every_pixel(getattr(data.raw_splits, split))
    mixture = fit_mixture(run, model, data.eval_splits.train, checkpoint=checkpoint) if isinstance(model, VAE) else None
    sets = sample_sets(model, mixture, data, other_part, labels=images.labels, n=sizes.ncompared, seed=seed)
    copies = find_copies(sets, data, seed, settings)
    protocol = {"split": split, "nimages": len(images), "seed": seed, "nbound": nbound, "chunk": chunk}
    protocol |= environment(run, checkpoint, extractor, train, where) | {"trained_against": trained_against}
    result = {
        "protocol": protocol | sizes._asdict() | settings,
        "caveats": few,
        **model_sections(model, likelihood, reconstruction, seed),
        "samples": compare_sets(sets, reference, [extractor, *others], where, seed, settings),
        "memorisation": memorisation_table(copies),
        "blur": compare_spectra({"reconstructions": reconstruction.decoded} | sets, reference),
        **classes_section(model, extractor, data, other_part, seed),
        "seconds": time.perf_counter() - started,
    }
    page = Page(
        replace_nonfinite(result), reference, every_pixel(images, 32), reconstruction, sets, copies, train, likelihood
    )
    return write_page(folder, page)


def log_caveats(**counts: Any) -> list[str]:
    """Log a warning for each metric that cannot be trusted (see `caveats`), and return these sentences."""
    found = caveats(**counts)
    for sentence in found:
        log.warning("warning: %s", sentence)
    return found


def environment(
    run: Path, checkpoint: str, extractor: Extractor, train: ImageSet, device: torch.device
) -> dict[str, Any]:
    """Return the digest of the weights, the feature extractor, the device and the package versions, by name."""
    return locate(run, checkpoint).names() | {
        "weights": weights_digest(run, checkpoint),
        "features": extractor.key,
        "classifier": train.digest()[:8] if isinstance(extractor, DigitClassifier) else None,
        "device": device_name(device),
        "versions": versions(),
    }


def write_page(folder: Path, page: Page) -> dict[str, Any]:
    """Write an evaluation as a JSON file and as an HTML page, and return the content of the JSON file."""
    name = file_name(page.result["protocol"]["split"])
    rename_earlier(folder, name, page.result["protocol"])
    write_whole(folder / f"{name}.json", json.dumps(page.result, indent=2, allow_nan=False).encode())
    write_whole(folder / f"{name}.html", render(page).encode())
    return page.result


def file_name(split: str) -> str:
    """Return evaluation-<split>, the name without suffix of the files of an evaluation."""
    return f"evaluation-{split}"


def rename_earlier(folder: Path, name: str, protocol: dict[str, Any]) -> None:
    """Rename the files of an earlier evaluation if it had other weights or settings, and log the new name."""
    try:
        before = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    changes = differences(before, json.loads(json.dumps(protocol)), PROTOCOL_WITHOUT_EFFECT)
    if changes:
        kept = f"{name}-{identity({}, protocol=before)[:8]}"
        for suffix in (".json", ".html"):
            if (folder / f"{name}{suffix}").is_file():
                (folder / f"{name}{suffix}").replace(folder / f"{kept}{suffix}")
        log.info("renamed an earlier %s.json, with %s, to %s.json", name, describe_changes(changes), kept)


def replace_nonfinite(node: Any) -> Any:  # noqa: ANN401
    """Return nested dicts with None in place of infinite and NaN numbers, which JSON cannot represent."""
    if isinstance(node, dict):
        return {key: replace_nonfinite(value) for key, value in node.items()}
    if isinstance(node, list):
        return [replace_nonfinite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def sample_sets(
    model: LatentModel,
    mixture: Distribution | None,
    data: ImageData,
    part: str,
    *,
    labels: Int64[Tensor, " m"],
    n: int,
    seed: int,
) -> dict[str, Pixels]:
    """Return real images, and images decoded from their posteriors, a fitted mixture of latents and the prior.

    For a conditional model, the classes of the images from the mixture and the prior are drawn from `labels`.
    """
    samplers: dict[str, Distribution | ImageSet | None] = {
        "posterior": getattr(data.eval_splits, part),
        "gmm": mixture,
        "prior": model.prior(),
    }
    available = [(name, sampler) for name, sampler in samplers.items() if sampler is not None]
    decode = partial(decode_samples, model, n=n, labels=labels, seed=seed)
    generated = {name: decode(sampler, name=name) for name, sampler in track(available, "samples")}
    return {"real": every_pixel(getattr(data.raw_splits, part), n)} | generated


def compare_sets(  # noqa: PLR0917
    sets: dict[str, Pixels],
    reference: Reference,
    extractors: list[Extractor],
    device: torch.device,
    seed: int,
    settings: dict[str, int],
) -> dict[str, dict[str, Any]]:
    """Return the metrics of each set of images against the reference images, by each extractor.

    Keys of values that depend on the feature extractor end with its name.
    """
    table: dict[str, dict[str, Any]] = {name: {} for name in sets}
    chosen = {name: settings[name] for name in ("ngroups", "nreplicates", "k")}
    for extractor in extractors:
        real = extract_features(extractor, reference, device)
        for name, images in track(list(sets.items()), "comparisons"):
            found = extract_features(extractor, images, device)
            table[name] |= compare_vectors(found, real, extractor.key, seed=seed, **chosen)
    return table


def find_copies(
    sets: dict[str, Pixels], data: ImageData, seed: int, settings: dict[str, int]
) -> dict[str, Memorisation]:
    """Return for each set of images the shares that count as copies of training images.

    Mirror images count as copies if training flipped images at random.
    """
    training, side = data.raw_splits.train, settings["side"]
    flips = data.augment is not None and data.augment.flip
    thresholds = copy_thresholds(training, nreference=settings["nreference"], side=side, seed=seed, flips=flips)
    return {
        name: memorisation(images, training, thresholds, side=side, flips=flips)
        for name, images in track(list(sets.items()), "copies")
    }


def compare_spectra(sets: dict[str, Pixels], reference: Reference) -> dict[str, dict[str, float] | None]:
    """Return the power of each set divided by that of the reference, by frequency band, or None if it is undefined."""
    table: dict[str, dict[str, float] | None] = {}
    for name, images in sets.items():
        try:
            table[name] = band_ratios(images, reference)
        except ValueError as error:
            log.warning("no power spectrum of %s: %s", name, error)
            table[name] = None
    return table


def model_sections(
    model: LatentModel, likelihood: SetLikelihood, reconstruction: Reconstruction, seed: int
) -> dict[str, Any]:
    """Return the sections "likelihood", "latents" and "reconstruction" of the JSON file."""
    return {
        "likelihood": likelihood_table(model, likelihood),
        "latents": latents_table(model, reconstruction, seed),
        "reconstruction": reconstruction.metrics,
    }


def likelihood_table(model: LatentModel, found: SetLikelihood) -> dict[str, Any]:
    """Return the section "likelihood" of the JSON file; bits per dimension are None if the likelihood is continuous."""
    table: dict[str, Any] = {
        name: getattr(found, name)._asdict() for name in ("iwae_nll", "neg_elbo", "distortion", "rate")
    }
    nlevels = model.likelihood.nlevels
    bits = None
    if nlevels:
        dimensions = model.channels * model.image_size**2
        bits = {
            key: bits_per_dimension(torch.tensor(value), dimensions).item() for key, value in table["iwae_nll"].items()
        }
    return table | {
        "likelihood": type(model.likelihood).__name__,
        "nlevels": nlevels,
        "bits_per_dimension": bits,
        "effective_samples": {
            "median": found.effective.median().item(),
            "lowest_decile": found.effective.quantile(0.1).item(),
        },
    }


def latents_table(model: LatentModel, found: Reconstruction, seed: int) -> dict[str, Any]:
    """Return the section "latents" of the JSON file; the rate is decomposed only if posteriors are diagonal normals."""
    table: dict[str, Any] = {"nlatent": model.nlatent, "active_units": active_units(found.moves, ACTIVE)}
    if found.log_sigmas is None:
        return table | {"mutual_information": None, "marginal_kl": None}
    device = next(model.parameters()).device
    means, log_sigmas = (values[:NCODES].to(device) for values in (found.means, found.log_sigmas))
    surgery = elbo_surgery(means, log_sigmas, model.prior(), ndraws=NDRAWS, seed=seed)
    cap = torch.tensor(min(len(found.means), NCODES)).log().item()
    return table | {
        "mutual_information": surgery.mutual_information._asdict() | {"cap": cap},
        "marginal_kl": surgery.marginal_kl._asdict(),
    }


def memorisation_table(copies: dict[str, Memorisation]) -> dict[str, dict[str, float]]:
    """Return the section "memorisation" of the JSON file: the shares and thresholds of copies in each set."""
    return {
        name: {key: value for key, value in found._asdict().items() if isinstance(value, float)}
        for name, found in copies.items()
    }


def classes_section(
    model: LatentModel, extractor: Extractor, data: ImageData, other_part: str, seed: int
) -> dict[str, Any]:
    """Return the section "classes" with the class accuracy if the model is conditional, else an empty dict."""
    if not model.nclasses:
        return {}
    parts = data.raw_splits
    trained = extractor if isinstance(extractor, DigitClassifier) else trained_classifier(parts.train)
    classifier = trained.to(next(model.parameters()).device)
    unseen = getattr(parts, other_part)
    found = class_accuracy(model, classifier, parts.train, unseen, nimages=NEACH, seed=seed)
    each = {data.classes[int(label)]: share for label, share in found.each_class.items()}
    return {"classes": found._asdict() | {"each_class": each}}
