"""The options of headless Chromium in benchmarks and tests."""

CHROMIUM_OPTIONS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Options of a Chromium that connects to nothing by itself."""
