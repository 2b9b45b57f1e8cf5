"""The page: what it says of the run, and its tabs."""

import streamlit as st  # pyright: ignore[reportMissingImports]

from vae_lab.exploring.explored import Explored
from vae_lab.exploring.tabs.interpolation import show_interpolation
from vae_lab.exploring.tabs.latents import show_latents
from vae_lab.exploring.tabs.own_picture import show_own_picture
from vae_lab.exploring.tabs.plane import show_plane
from vae_lab.exploring.tabs.samples import show_samples

TABS = {
    "Latents": show_latents,
    "Samples": show_samples,
    "Your picture": show_own_picture,
    "Interpolation": show_interpolation,
    "Map": show_plane,
}
STYLE = """<style>
.stMainBlockContainer { padding-top: 3.5rem; }
[data-testid="stColumn"]:has([class*="st-key-sticky"]) {
  position: sticky; top: 3.75rem; align-self: flex-start; z-index: 5; backdrop-filter: blur(1rem);
}
@media (max-width: 640px) {
  [class*="st-key-sticky"] img { max-width: 45vw !important; }
  .st-key-sliders > *, .st-key-sliders .stSlider { width: 100% !important; }
}
</style>"""


def show_page(explored: Explored) -> None:
    """Show the page of a run; a tab is computed when it is opened first, and kept."""
    st.set_page_config("vae_lab", layout="wide")
    st.html(STYLE)
    model = explored.model
    colours = {1: "grey", 3: "colour"}[model.channels]
    facts = [f"{model.nlatent} latents", f"{colours} images of {model.image_size} pixels a side"]
    facts += [f"{model.nclasses} classes"] if model.nclasses else []
    st.text(f"{explored.folder.name}: {', '.join(facts)}, checkpoint {explored.how.checkpoint}")
    opened = st.session_state.setdefault("opened", set())
    for tab, show in zip(st.tabs([*TABS], key="tab", on_change="rerun"), TABS.values(), strict=True):
        if tab.open:
            opened.add(show.__name__)
        if show.__name__ in opened:  # also in the background, as Streamlit forgets what is not shown
            with tab:
                show(explored)
