"""The tab with a slider for each latent and the image that they decode to."""

import streamlit as st  # pyright: ignore[reportMissingImports]
import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.exploring.explored import Explored, Statistics
from vae_lab.exploring.pictures import data_url, image_png
from vae_lab.exploring.widgets import choose_class, errors_shown, offer_png, plain
from vae_lab.latents.encoding import encode_images
from vae_lab.latents.interpolation import decode_latents
from vae_lab.sampling.images import draw_latents

SHOWN = 12
"""Latents with a slider at first."""
BAR = 10
"""Characters of the bar of the largest KL."""
WIDTH = 215
"""Pixels of a slider; three of them fit beside the image in a window of 1280 pixels."""
Z, CLASS, ROW, SEED = "latents", "latents class", "latents row", "latents seed"


@st.fragment
def show_latents(explored: Explored) -> None:
    """Show the sliders, in the order of their KL to the prior, beside the decoded image."""
    with errors_shown():
        statistics = explored.statistics()
        if Z not in st.session_state:
            st.session_state[SEED] = 0
            start_anywhere(explored)
        left, right = st.columns([1, 2], gap="medium")
        with left:  # first, so that the image arrives before the sliders are made
            show_decoded(explored, st.session_state[Z], CLASS, "decoded")
        with right:
            n = show_starts(explored)
            show_sliders(statistics, n)


def show_decoded(
    explored: Explored, z: Float[Tensor, " nlatent"], class_key: str, name: str, caption: str = ""
) -> None:
    """Show the image that a latent vector decodes to beside the class; both stay in view when the page is scrolled."""
    with st.container(key=f"sticky {name}", horizontal=True):
        place = st.empty()
        with st.container(width=150):
            label = choose_class(explored, class_key)
            png = image_png(decoded(explored, z, label))
            offer_png(png, name)
        place.image(data_url(png), caption=caption or None)


@torch.no_grad()
def decoded(explored: Explored, z: Float[Tensor, " nlatent"], label: int | None) -> Tensor:
    """Return the image that a latent vector decodes to."""
    return decode_latents(explored.model, z[None], None if label is None else torch.tensor(label))[0]


def show_starts(explored: Explored) -> int:
    """Show the buttons that set all latents, and return the number of sliders that is chosen."""
    images, nlatent = explored.test_images(), explored.model.nlatent
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button("Draw from the prior", on_click=start_from_prior, args=(explored,))
        st.button("All zero", on_click=start, args=(torch.zeros(nlatent),))
        if images is not None:
            st.button("Test image", on_click=start_from_image, args=(explored,))
            choice = {"key": ROW, "width": 130, "on_change": start_from_image, "args": (explored,)}
            st.number_input("its number", 0, len(images) - 1, **choice)
        return st.number_input("sliders", 1, nlatent, min(SHOWN, nlatent), key="latents shown", width=130)


def show_sliders(statistics: Statistics, n: int) -> None:
    """Show the sliders of the `n` latents with the largest KL, with a bar of it."""
    st.caption(
        f"Latents by their KL to the prior in nats, averaged over {plain(statistics.source.rstrip('.'))};"
        f" {float(statistics.rates.sum()):.1f} in all."
    )
    largest = max(float(statistics.rates.max()), 1e-9)
    with st.container(key="sliders", horizontal=True, gap="medium"):
        for latent in statistics.order[:n]:
            rate, reach = float(statistics.rates[latent]), float(statistics.reach[latent])
            bar = "━" * max(1, round(BAR * rate / largest))
            key = slider_key(latent)
            st.session_state.setdefault(key, float(st.session_state[Z][latent].clamp(-reach, reach)))
            label = f"z{latent} :blue[{bar}] {rate:.2f}"
            st.slider(label, -reach, reach, step=0.01, key=key, width=WIDTH, on_change=move, args=(latent,))


def slider_key(latent: int) -> str:
    """Return the key of a latent's slider."""
    return f"z {latent}"


def move(latent: int) -> None:
    """Set a latent to the value of its slider."""
    z = st.session_state[Z].clone()
    z[latent] = st.session_state[slider_key(latent)]
    st.session_state[Z] = z


def start(z: Float[Tensor, " nlatent"]) -> None:
    """Set all latents; the sliders follow when they are shown next."""
    st.session_state[Z] = z.float().cpu()
    for latent in range(len(z)):
        st.session_state.pop(slider_key(latent), None)


def start_anywhere(explored: Explored) -> None:
    """Set the latents to those of the first test image, or to a draw from the prior without the run's images."""
    if explored.test_images() is None:
        start_from_prior(explored)
    else:
        st.session_state.setdefault(ROW, 0)
        start_from_image(explored)


def start_from_prior(explored: Explored) -> None:
    """Set the latents to a new draw from the prior."""
    st.session_state[SEED] += 1
    start(draw_latents(explored.sampler("prior"), torch.ones(1), 1, st.session_state[SEED])[0][0])


def start_from_image(explored: Explored) -> None:
    """Set the latents to the posterior mean of a test image, and the class to that of the image."""
    images = explored.test_images()
    assert images is not None
    row = st.session_state[ROW]
    if explored.model.nclasses:
        st.session_state[CLASS] = int(images.labels[row])
    start(encode_images(explored.model, images[row])[0])
