"""The summary of an evaluation: the lines that the command `evaluate` logs at its end."""

from typing import Any


def headline(result: dict[str, Any]) -> list[str]:
    """Return the summary lines that the command `evaluate` logs at its end."""
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
    lines.append(describe_reconstruction(result["reconstruction"]))
    keys = [protocol["features"], *(name for name in protocol["trained_against"] if name != protocol["features"])]
    for name, row in result["samples"].items():
        rows = [row, *([result["against_split"][name]] if "against_split" in result else [])]
        numbers = "; ".join(describe_row(one, key, protocol["trained_against"]) for one in rows for key in keys)
        copies = describe_copies(result["memorisation"][name], keys[0])
        lines.append(f"{name:9} {row['nimages']} images {numbers}; {copies}")
    return lines


def describe_copies(row: dict[str, float], key: str) -> str:
    """Return how near a row of samples is to the training images, as text."""
    text = f"near copies {100 * row['share']:.1f} %"
    if f"near_share_{key}" in row:
        text += f", by {key} {100 * row[f'near_share_{key}']:.1f} % nearer than 95 % of unseen images"
    return text


def describe_reconstruction(found: dict[str, Any]) -> str:
    """Return the metrics of the reconstructions as text."""
    text = f"reconstructions: PSNR {found['psnr']:.2f} dB, SSIM {found['ssim']:.3f}"
    for key, value in found.items():
        if key.startswith("rkid_"):
            text += f", rKID_{key.removeprefix('rkid_')} x 1000 {interval(value, 1000.0)}"
        elif key.startswith("perceptual_"):
            distance = f"{value['value']:.3f} +- {value['standard_error']:.3f}"
            text += f", perceptual distance by {key.removeprefix('perceptual_')} {distance}"
    return text


def describe_row(row: dict[str, Any], key: str, trained_against: list[str]) -> str:
    """Return KID and, if there are enough images, FID of a row of samples by one extractor, as text."""
    kid, fid = row[f"kid_{key}"], row[f"fid_{key}"]
    text = f"against {row['nreference']}: KID_{key} x 1000 {interval(kid, 1000.0)}"
    if fid is not None:
        text += f", FID_{key} {interval(fid)}"
    return f"{text} (trained against {key})" if key in trained_against else text


def interval(found: dict[str, float], scale: float = 1.0) -> str:
    """Return an estimate and the ends of its interval as text."""
    value, low, high = (scale * found[key] for key in ("value", "low", "high"))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
