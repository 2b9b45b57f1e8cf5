"""Parts of the page that several tabs have."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st  # pyright: ignore[reportMissingImports]
from jaxtyping import UInt8
from torch import Tensor

from vae_lab.data.files.decode import BadImage, decode
from vae_lab.data.pictures import file_rules
from vae_lab.errors import DataError, StorageError
from vae_lab.exploring.explored import Explored
from vae_lab.exploring.pictures import data_url
from vae_lab.system.progress import listening

LARGEST = 50
"""Megabytes of an uploaded file, at most."""
ENDINGS = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"]
SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~:$])")

Pixels = UInt8[Tensor, "1 channels height width"]


def plain(text: str) -> str:
    """Return a text that Markdown shows letter by letter."""
    return SPECIAL.sub(r"\\\1", text)


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show an error of a setting, of the data or of a folder in the page, as a sentence."""
    try:
        yield
    except (ValueError, DataError, StorageError) as error:
        st.error(plain(str(error)))


@contextmanager
def progress_shown(what: str) -> Iterator[None]:
    """Show the progress of the block's loops in the page."""
    place = st.empty()

    def show(part: str, done: int, total: int) -> None:
        place.progress(done / total, f"{what}: {part}, {done} of {total}")

    place.progress(0.0, f"{what} …")
    with listening(show):
        yield
    place.empty()


def show_png(png: bytes, name: str, caption: str = "") -> None:
    """Show a PNG in its size, or that of the column if that is smaller, above a button to download it as `name`.png."""
    st.image(data_url(png), caption=caption or None)
    offer_png(png, name)


def offer_png(png: bytes, name: str) -> None:
    """Show a button to download a PNG as `name`.png."""
    st.download_button("Download PNG", png, f"{name}.png", "image/png", key=f"download {name}", on_click="ignore")


def choose_class(explored: Explored, key: str) -> int | None:
    """Return the class that is chosen in the page; None, without a widget, for an unconditional model."""
    n = explored.model.nclasses
    return st.selectbox("Class", range(n), format_func=explored.class_name, key=key) if n else None


def choose_picture(explored: Explored, key: str, row: int = 0, class_key: str = "") -> Pixels | None:
    """Return the pixels of an uploaded picture, or else of the test image whose number is chosen; None without either.

    Args:
        explored: the run.
        key: names the widgets.
        row: the number of the test image that is shown first.
        class_key: key of the class widget below, which is set to the class of the test image.
    """
    upload = st.file_uploader("Your picture", ENDINGS, key=f"{key} file", max_upload_size=LARGEST)
    if upload is not None:
        rules = file_rules(explored.model)
        limits = {"max_pixels": rules.max_pixels, "background": rules.background}
        try:
            return decode(upload.getvalue(), rules.channels, rules.image_size, **limits).pixels[None]
        except BadImage as bad:
            st.error(plain(f"{upload.name} cannot be used ({bad}); choose another file."))
            return None
    images = explored.test_images()
    if images is None:
        st.info("Choose a picture; the run's own images are missing.")
        return None
    row_key, last = f"{key} row", len(images) - 1

    def take_class() -> None:
        if class_key and explored.model.nclasses:
            st.session_state[class_key] = int(images.labels[st.session_state[row_key]])

    if row_key not in st.session_state:
        st.session_state[row_key] = min(row, last)
        take_class()
    chosen = st.number_input("or a test image, by its number", 0, last, key=row_key, on_change=take_class)
    return images.pixels(slice(chosen, chosen + 1))
