"""The tab with one's own picture: its reconstruction, how likely and how unusual it is, and its neighbours."""

import streamlit as st  # pyright: ignore[reportMissingImports]
import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.data.pictures import model_input
from vae_lab.detection.detector import SEEN, Detector
from vae_lab.detection.figures import heat_map
from vae_lab.detection.scores.anomaly import pixel_errors
from vae_lab.exploring.explored import Explored
from vae_lab.exploring.pictures import grid_png
from vae_lab.exploring.widgets import Pixels, choose_class, choose_picture, errors_shown, progress_shown, show_png
from vae_lab.latents.encoding import encode_images, log_likelihood, reconstruct_images

ALPHA = 0.05
NSHOWN = 8
CLASS = "picture class"


@st.fragment
def show_own_picture(explored: Explored) -> None:
    """Show a picture beside its reconstruction, its likelihood and p-value, and the nearest training images."""
    left, right = st.columns([1, 2], gap="medium")
    with left:
        pixels = choose_picture(explored, "picture", class_key=CLASS)
        label = choose_class(explored, CLASS)
        is_scored = st.toggle("Likelihood and p-value", key="picture scored")
        has_neighbours = st.toggle("Nearest training images", key="picture neighbours")
    if pixels is None:
        return
    with right, errors_shown():
        seen = model_input(pixels, explored.model)
        decoded = reconstruct_images(explored.model, pixels, label=label)
        heat = pixel_errors(seen, decoded)
        if is_scored:
            detector = show_score(explored, pixels, label)
            heat = heat if detector is None else detector.heat(pixels)
        rows = [seen.expand(-1, 3, -1, -1), decoded.expand(-1, 3, -1, -1), coloured(seen, heat)]
        show_png(grid_png(torch.cat(rows), 3), "picture", "picture as the model sees it, reconstruction, heat map")
        if has_neighbours:
            show_neighbours(explored, pixels, label)


def coloured(images: Float[Tensor, "n channels height width"], heat: Float[Tensor, "n height width"]) -> Tensor:
    """Return the heat map of images; the brightest colour is the 99th percentile of their heat."""
    return heat_map(images, heat.float(), full=max(float(heat.quantile(0.99)), 1e-6))


def show_score(explored: Explored, pixels: Pixels, label: int | None) -> Detector | None:
    """Show log p(x) and the p-value of a picture, and return the detector; None for a conditional model."""
    value = float(log_likelihood(explored.model, pixels, label=label))
    with st.container(horizontal=True, gap="large"):
        help_text = "the importance-sampling estimate with 200 latents"
        st.metric("-log p(x) in nats", f"{-value:.1f}", help=help_text, width="content")
        if explored.model.nclasses:
            st.caption("A p-value needs an unconditional model, because new pictures have no class.")
            return None
        with progress_shown("scoring normal images of the run, once"):
            detector = explored.detector()
        judged = detector.judge(detector.examine(pixels), ALPHA)
        name = type(getattr(detector, "score", detector)).__name__
        help_text = "the anomaly score of score=; higher is more unusual"
        st.metric(name, f"{float(judged.scores):.4g}", help=help_text, width="content")
        verdict = "flagged" if bool(judged.flagged) else "not flagged"
        help_text = f"probability that a normal image scores at least as high; {verdict} at alpha = {ALPHA}"
        st.metric("p-value", f"{float(judged.p_values):.3g}, {verdict}", help=help_text, width="content")
    part = SEEN[int(judged.details["seen"])]
    if part:
        st.caption(f"The picture is one of the run's {part} images, so its p-value is invalid.")
    return detector


def show_neighbours(explored: Explored, pixels: Pixels, label: int | None) -> None:
    """Show the training images whose posterior means are nearest to that of a picture."""
    with progress_shown("training images"):
        encoded = explored.encoded()
    found = explored.neighbours(encode_images(explored.model, pixels, label=label), NSHOWN)
    training = explored.data().raw_splits.train
    words = (
        f"Nearest of {len(encoded.means)} training images, out of {len(training)}, by their posterior means; distances"
        f" {', '.join(f'{distance:.2f}' for distance in found.distances)}"
    )
    show_png(grid_png(training[found.rows].image, NSHOWN // 2), "neighbours", words)
