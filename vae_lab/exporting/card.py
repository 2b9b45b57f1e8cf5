"""The model card of a Hub folder, with the numbers of the run that the model comes from."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_lab.evaluation.headline import headline
from vae_lab.runs.configs import foreign_packages
from vae_lab.runs.folder import read_summary
from vae_lab.system.reading import Unreadable, read_json

if TYPE_CHECKING:
    from vae_lab.probability.latent_model import LatentModel

TEMPLATE = Path(__file__).parent / "model_card.md"
EVALUATION = "evaluation-test.json"
UNLICENSED = "The author states no license, so others may not use the model without asking."


def model_card(
    model: "LatentModel",
    about: Mapping[str, Any],
    run: Path,
    *,
    license: str | None,  # noqa: A002 (the Hub's name for it)
    pictures: Sequence[str],
    repository: str | None,
) -> str:
    """Return the text of a model card, a README.md that begins with the Hub's metadata.

    Args:
        model: the model.
        about: the content of config.json.
        run: the run folder, whose summary and evaluation have the numbers.
        license: the license of the weights, or None.
        pictures: names of picture files in the same folder.
        repository: <user>/<name> on the Hub, or None.
    """
    from huggingface_hub import ModelCard, ModelCardData

    summary, packages = read_summary(run), sorted(foreign_packages(about["model"]))
    data = ModelCardData(
        license=license,
        library_name="vae_lab",
        pipeline_tag="unconditional-image-generation",
        tags=["vae", "variational-autoencoder", "image-generation", "anomaly-detection"],
    )
    names = ("channels", "image_size", "nlatent")
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=repository.rpartition("/")[2] if repository else run.name,
        repository=repository,
        version=about["vae_lab_version"],
        nimages=summary.get("data", {}).get("ntrain"),
        pictures=pictures,
        packages=", ".join(packages),
        trust=f", trust={packages}" if packages else "",
        numbers=numbers_of(summary),
        evaluation=evaluation_lines(run),
        classes=", ".join(map(str, about["classes"])),
        license_text=license or UNLICENSED,
        **{name: getattr(model, name) for name in names},
    )
    return card.content


def numbers_of(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the metrics on the test images and the size and length of the training, as pairs of name and text."""
    kept = ["parameters", "steps", "seed", *sorted(name for name in summary if name.startswith("test/"))]
    return [(name, f"{summary[name]:.6g}") for name in kept if isinstance(summary.get(name), int | float)]


def evaluation_lines(run: Path) -> list[str]:
    """Return the summary lines of the run's evaluation on the test images; [] if there is none."""
    with suppress(Unreadable, KeyError, TypeError, ValueError):
        return headline(read_json(run / EVALUATION, links=True))
    return []
