"""The tab with images decoded from new latents."""

import math

import streamlit as st  # pyright: ignore[reportMissingImports]

from vae_lab.exploring.explored import Explored
from vae_lab.exploring.pictures import grid_png
from vae_lab.exploring.widgets import errors_shown, progress_shown, show_png
from vae_lab.models.vae import VAE
from vae_lab.sampling.images import EVERY, generate_images
from vae_lab.sampling.store import NAMES

DRAWN, MOST = 16, 144
SEED = "samples seed"
TITLES = {"prior": "prior", "gmm": "Gaussian mixture (gmm)", "flow": "rectified flow (flow)"}


@st.fragment
def show_samples(explored: Explored) -> None:
    """Show images decoded from latents of a sampler, with a temperature and a class."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        names = NAMES if isinstance(explored.model, VAE) else NAMES[:1]
        name = st.selectbox("Sampler", names, format_func=TITLES.__getitem__, width=230, key="samples sampler")
        temperature = st.slider("Temperature", 0.1, 1.5, 1.0, 0.05, width=230, key="samples temperature")
        which = choose_classes(explored)
        n = st.number_input(
            "Images" if which != EVERY else "Images of a class", 1, MOST, DRAWN, width=140, key="samples n"
        )
        seed = st.number_input("Seed", 0, value=0, width=140, key=SEED)
        st.button("Draw again", on_click=lambda: st.session_state.update({SEED: st.session_state[SEED] + 1}))
    with errors_shown():
        with progress_shown(f"fitting sampler={name} to the latents of the training images"):
            sampler = None if name == "prior" else explored.sampler(name)
        images = generate_images(
            explored.model, n, seed, sampler=sampler, temperature=temperature, which=which, counts=explored.counts
        )
        show_png(grid_png(images.float(), n if which == EVERY else math.ceil(math.sqrt(n))), "samples")


def choose_classes(explored: Explored) -> int | str | None:
    """Return the class that is chosen in the page: a number, "all", or None for a draw of each image's class."""
    choices: list[int | str | None] = [None, EVERY, *range(explored.model.nclasses)]
    if not explored.model.nclasses:
        return None

    def title(which: int | str | None) -> str:
        return explored.class_name(which) if isinstance(which, int) else {None: "drawn", EVERY: "a row of each"}[which]

    return st.selectbox("Class", choices, format_func=title, width=230, key="samples class")
