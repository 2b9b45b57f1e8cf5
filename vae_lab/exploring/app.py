"""The script that Streamlit runs for each visitor of the page."""

from vae_lab.exploring.page import show_page
from vae_lab.exploring.server import explored_run

show_page(explored_run())
