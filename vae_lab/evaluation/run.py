"""The evaluation of a run: the numbers of docs/evaluation.md and a page of them."""

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
from vae_lab.evaluation.extractors import load_extractor, trained_classifier
from vae_lab.evaluation.html import Page, render
from vae_lab.evaluation.metrics.class_accuracy import class_accuracy
from vae_lab.evaluation.metrics.features import DigitClassifier, Extractor, features_of
from vae_lab.evaluation.metrics.latents import active_units, elbo_surgery
from vae_lab.evaluation.metrics.likelihood import SetLikelihood, set_likelihood
from vae_lab.evaluation.metrics.memorisation import Memorisation, copy_thresholds, memorisation
from vae_lab.evaluation.metrics.power_spectrum import band_ratios
from vae_lab.evaluation.metrics.reconstruction import Reconstruction, reconstruct
from vae_lab.evaluation.metrics.two_sample import frechet_interval, kernel_interval, manifold
from vae_lab.evaluation.protocol import (
    Sizes,
    affordable,
    check,
    chosen_chunk,
    chosen_sizes,
    load_sound,
    say_sizes,
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
"""Variance of its posterior mean from which on a latent counts as active."""

NCODES, NDRAWS = 10_000, 2000
"""Posteriors in the aggregate one, and draws from it, for the mutual information."""

NEACH = 200
"""Images of each class that are put to a classifier."""

Pixels = Float[Tensor, "n channels height width"]
Reference = Float[Tensor, "m channels height width"]


def evaluate_run(run: Path, folder: Path, *, split: str, checkpoint: str, root: str | None, seed: int, device: str,
           features: str, nsamples: int | None, nll_images: int | None, ngenerated: int | None, nbound: int,
           chunk: int | None, trust: Trust = None, **settings: int) -> dict[str, Any]:  # fmt: skip
    """Return what docs/evaluation.md lists, and write it to `folder` as evaluation-<split>.json and .html.

    Args:
        run: a run folder, or a checkpoint file.
        folder: for the two files; an evaluation of other weights, or by another protocol, stays under another name.
        split: the part to evaluate on.
        checkpoint: "best" or "last".
        root: where the images lie now, or None.
        seed: of every draw.
        device: "auto", "cpu" or "cuda".
        features: which extractor; see `load_extractor`.
        nsamples: latents for each image in the likelihood; None chooses by device, as for the next two.
        nll_images: images that get so many.
        ngenerated: images for each sampler.
        nbound: latents for each image in the bound that carries the likelihood over to the others.
        chunk: latents decoded at once; None takes fewer for larger images.
        trust: packages beside vae_lab that the run may be made of.
        settings: those of the comparisons.

    Raises:
        ValueError, DataError, DivergedError, StorageError: before anything takes long.
    """
    started = time.perf_counter()
    check(split, seed, nbound=nbound, **settings)
    require_folder_name(folder)
    where = choose_device(device)
    model = load_sound(run, checkpoint, trust).to(where)
    require_writable(folder)
    data = load_data(run, checkpoint, root=root, trust=trust)
    images, other_part = getattr(data.eval_splits, split), "test" if split == "val" else "val"
    nunseen = len(getattr(data.eval_splits, other_part))
    chunk = chosen_chunk(chunk, images.pixels(slice(1)).numel())
    sizes, settings = chosen_amounts((nsamples, nll_images, ngenerated), settings, where, len(images), nunseen)
    train = data.raw_splits.train
    extractor = load_extractor(features, train).to(where)
    few = warned_of(sizes, min(settings["nreference"], len(train)), extractor.key)
    counts = {"nsamples": sizes.nsamples, "nimages": sizes.nll_images, "nbound": nbound, "chunk": chunk}
    likelihood = set_likelihood(model, images, **counts, seed=seed, track=track)
    reconstruction = reconstruct(model, images)
    reference = every_pixel(getattr(data.raw_splits, split))
    mixture = fit_mixture(run, model, data.eval_splits.train, checkpoint=checkpoint) if isinstance(model, VAE) else None
    sets = compared_sets(model, mixture, data, other_part, labels=images.labels, n=sizes.ncompared, seed=seed)
    copies = copied(sets, data, seed, settings)
    protocol = {"split": split, "nimages": len(images), "seed": seed, "nbound": nbound, "chunk": chunk}
    protocol |= environment(run, checkpoint, extractor, train, where)
    result = {
        "protocol": protocol | sizes._asdict() | settings,
        "caveats": few,
        **model_sections(model, likelihood, reconstruction, seed),
        "samples": compared(sets, reference, extractor, seed, settings),
        "memorisation": {name: memorisation_table(found) for name, found in copies.items()},
        "blur": blurred({"reconstructions": reconstruction.decoded} | sets, reference),
        **classes_section(model, extractor, data, other_part, seed),
        "seconds": time.perf_counter() - started,
    }
    page = Page(finite(result), reference, every_pixel(images, 32), reconstruction, sets, copies, train, likelihood)
    return write(folder, page)


def chosen_amounts(
    asked: tuple[int | None, ...], settings: dict[str, int], where: torch.device, nimages: int, nunseen: int
) -> tuple[Sizes, dict[str, int]]:
    """Return how much is computed and the settings of the comparisons that it allows; both have been logged."""
    sizes = chosen_sizes(asked, where, nimages, nunseen)
    settings = affordable(settings, min(nimages, sizes.ncompared))
    say_sizes(sizes, where, nimages)
    return sizes, settings


def warned_of(sizes: Sizes, nreference: int, key: str) -> list[str]:
    """Return the sentences on numbers that come from too few images, which have been logged too."""
    found = caveats(ncompared=sizes.ncompared, naveraged=sizes.nll_images, nreference=nreference, key=key)
    for sentence in found:
        log.warning("beware: %s", sentence)
    return found


def environment(
    run: Path, checkpoint: str, extractor: Extractor, train: ImageSet, device: torch.device
) -> dict[str, Any]:
    """Return what else the figures depend on: weights, feature extractor, device and versions."""
    weights = locate(run, checkpoint).names() | {"weights": weights_digest(run, checkpoint)}
    described = {"features": extractor.key, "classifier": trained_on(extractor, train)}
    return weights | described | {"device": device_name(device), "versions": versions()}


def write(folder: Path, page: Page) -> dict[str, Any]:
    """Return the result of a page, once the two files of its split are written."""
    name = file_name(page.result["protocol"]["split"])
    keep_other(folder, name, page.result["protocol"])
    write_whole(folder / f"{name}.json", json.dumps(page.result, indent=2, allow_nan=False).encode())
    write_whole(folder / f"{name}.html", render(page).encode())
    return page.result


def file_name(split: str) -> str:
    """Return the name, without its ending, of the files of a split's evaluation."""
    return f"evaluation-{split}"


def keep_other(folder: Path, name: str, protocol: dict[str, Any]) -> None:
    """Give an evaluation that is there another name, and say so, if it has other weights or another protocol."""
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
        log.info("an earlier %s.json, with %s, is kept as %s.json", name, describe_changes(changes), kept)


def trained_on(extractor: Extractor, training: ImageSet) -> str | None:
    """Return which images an extractor was trained on, as the first digits of their hash, if it was on any."""
    return training.digest()[:8] if isinstance(extractor, DigitClassifier) else None


def finite(node: Any) -> Any:  # noqa: ANN401
    """Return the result with null, which JSON has, in the place of infinities and NaN, which it has not."""
    if isinstance(node, dict):
        return {key: finite(value) for key, value in node.items()}
    return None if isinstance(node, float) and not math.isfinite(node) else node


def compared_sets(
    model: LatentModel,
    mixture: Distribution | None,
    data: ImageData,
    part: str,
    *,
    labels: Int64[Tensor, " m"],
    n: int,
    seed: int,
) -> dict[str, Pixels]:
    """Return real images of a part, and images by each sampler: its posteriors, the mixture, and the prior.

    A conditional model's last two are of classes drawn from `labels`.
    """
    samplers: dict[str, Distribution | ImageSet | None] = {
        "posterior": getattr(data.eval_splits, part),
        "gmm": mixture,
        "prior": model.prior(),
    }
    there = [(name, sampler) for name, sampler in samplers.items() if sampler is not None]
    made = partial(decode_samples, model, n=n, labels=labels, seed=seed)
    generated = {name: made(sampler, name=name) for name, sampler in track(there, "samples")}
    return {"real": every_pixel(getattr(data.raw_splits, part), n)} | generated


def compared(
    sets: dict[str, Pixels], reference: Reference, extractor: Extractor, seed: int, settings: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """Return the distances of each set from the reference; keys of those that depend on the extractor name it."""
    real = vectors(extractor, reference)
    table: dict[str, dict[str, Any]] = {}
    for name, images in track(list(sets.items()), "comparisons"):
        found = vectors(extractor, images)
        kid = kernel_interval(real, found, nblocks=settings["nblocks"])
        fid = frechet_interval(real, found, nreplicates=settings["nreplicates"], seed=seed)
        overlap = manifold(real, found, settings["k"])
        table[name] = {
            "nimages": len(found),
            "nreference": len(real),
            f"kid_{extractor.key}": kid._asdict(),
            f"fid_{extractor.key}": fid._asdict(),
        } | {f"{key}_{extractor.key}": value for key, value in overlap._asdict().items()}
    return table


def vectors(extractor: Extractor, images: Pixels) -> Float[Tensor, "n nfeatures"]:
    """Return the extractor's vectors of images on the CPU."""
    device = next(extractor.parameters()).device
    return features_of(extractor, (part.to(device) for part in images.split(250)), 250)


def copied(sets: dict[str, Pixels], data: ImageData, seed: int, settings: dict[str, int]) -> dict[str, Memorisation]:
    """Return how near each set comes to the training images, and to their mirror images if training saw those."""
    training, side = data.raw_splits.train, settings["side"]
    flips = data.augment is not None and data.augment.flip
    usual = copy_thresholds(training, nreference=settings["nreference"], side=side, seed=seed, flips=flips)
    return {
        name: memorisation(some, training, usual, side=side, flips=flips)
        for name, some in track(list(sets.items()), "copies")
    }


def blurred(sets: dict[str, Pixels], reference: Reference) -> dict[str, dict[str, float] | None]:
    """Return how much power each set has of the reference's, band by band; None where that says nothing."""
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
    """Return, by their names, the sections on what the model makes of the images themselves."""
    return {
        "likelihood": likelihood_table(model, likelihood),
        "latents": latents_table(model, reconstruction, seed),
        "reconstruction": reconstruction.metrics,
    }


def likelihood_table(model: LatentModel, found: SetLikelihood) -> dict[str, Any]:
    """Return the likelihood section; bits only of probabilities."""
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
    """Return how the latents are used; the split of the rate needs posteriors that are one vector's."""
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


def memorisation_table(found: Memorisation) -> dict[str, float]:
    """Return the numbers of a memorisation check."""
    return {key: value for key, value in found._asdict().items() if isinstance(value, float)}


def classes_section(
    model: LatentModel, extractor: Extractor, data: ImageData, other_part: str, seed: int
) -> dict[str, Any]:
    """Return, by its name, the section on how often a classifier sees the class that a conditional model was given."""
    if not model.nclasses:
        return {}
    parts = data.raw_splits
    trained = extractor if isinstance(extractor, DigitClassifier) else trained_classifier(parts.train)
    classifier = trained.to(next(model.parameters()).device)
    unseen = getattr(parts, other_part)
    found = class_accuracy(model, classifier, parts.train, unseen, nimages=NEACH, seed=seed)
    each = {data.classes[int(label)]: share for label, share in found.each_class.items()}
    return {"classes": found._asdict() | {"each_class": each}}


def headline(result: dict[str, Any]) -> list[str]:
    """Return the lines that a command ends with."""
    likelihood, protocol = result["likelihood"], result["protocol"]
    nll, elbo = likelihood["iwae_nll"], likelihood["neg_elbo"]
    name = "-log p(x | y)" if "classes" in result else "-log p(x)"
    line = f"{name} {nll['value']:.2f} +- {nll['standard_error']:.2f} nats ({protocol['nsamples']} samples)"
    line += f", ELBO bound {elbo['value']:.2f}"
    if likelihood["bits_per_dimension"]:
        line += f", {likelihood['bits_per_dimension']['value']:.3f} bits per dimension"
    lines = [line]
    if "classes" in result:
        accuracy = {key: 100 * result["classes"][key] for key in ("class_accuracy", "real_accuracy")}
        shares = "class accuracy {class_accuracy:.2f} % of generated images, {real_accuracy:.2f} % of real ones"
        lines.append(shares.format(**accuracy))
    key = protocol["features"]
    for name, row in result["samples"].items():
        kid, fid, copies = row[f"kid_{key}"], row[f"fid_{key}"], result["memorisation"][name]
        lines.append(
            f"{name:9} {row['nimages']} images: KID_{key} x 1000 {1000 * kid['value']:.2f}"
            f" ({1000 * kid['low']:.2f} to {1000 * kid['high']:.2f}), FID_{key} {fid['value']:.2f}"
            f" ({fid['low']:.2f} to {fid['high']:.2f}), near copies {100 * copies['share']:.1f} %"
        )
    return lines
