"""The tab with images between two pictures."""

import streamlit as st  # pyright: ignore[reportMissingImports]
import torch

from vae_lab.exploring.explored import Explored
from vae_lab.exploring.pictures import grid_png
from vae_lab.exploring.widgets import choose_class, choose_picture, errors_shown, show_png
from vae_lab.latents.interpolation import PATHS, interpolate_images

CLASS = "interpolation class"
WIDE = 1100
"""Pixels of the row of images."""


@st.fragment
def show_interpolation(explored: Explored) -> None:
    """Show the images on a path between the posterior means of two pictures."""
    first, second = st.columns(2, gap="medium")
    with first:
        one = choose_picture(explored, "first", 0, CLASS)
    with second:
        other = choose_picture(explored, "second", 1)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n = st.slider("Images", 2, 24, 9, width=230, key="interpolation n")
        path = st.selectbox("Path", PATHS, width=230, key="interpolation path")
        label = choose_class(explored, CLASS)
    if one is None or other is None:
        return
    with errors_shown():
        images = interpolate_images(explored.model, torch.cat([one, other]), n, path=path, label=label, layout="NCHW")
        words = "from the reconstruction of the first picture to that of the second"
        show_png(grid_png(images, n, WIDE), "interpolation", words)
