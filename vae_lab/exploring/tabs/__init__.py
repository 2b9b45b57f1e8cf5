"""The tabs of the page; each is a fragment, which Streamlit runs alone when one of its widgets changes."""
