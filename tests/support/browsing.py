"""Pages in headless Chromium."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sweeping import LIMIT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def opened(page: Path, script: str = "") -> tuple[str, str]:
    """The document after its scripts and one more have run in headless Chromium, and what its console said."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    if script:
        page.write_text(re.sub("<meta http-equiv[^>]*>", "", page.read_text()) + script)
    profile = f"--user-data-dir={page.parent / 'profile'}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", profile]
    options += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--dump-dom"]
    line = [CHROMIUM, *options, page.absolute().as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=True)
    return done.stdout, "\n".join(text for text in done.stderr.splitlines() if "CONSOLE" in text)
