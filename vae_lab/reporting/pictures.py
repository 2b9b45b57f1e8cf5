"""Thumbnails of a run's pictures for the report page."""

import base64
import io
import warnings
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from vae_lab.system.reading import is_there

MAX_PIXELS = 50_000_000
"""Larger pictures are not decoded."""


def thumbnail(path: Path, side: int, alt: str) -> Markup | None:
    """Return an HTML image of a PNG file, as a JPEG of at most `side` pixels; None if it cannot be decoded."""
    content = encoded(path, side)
    if content is None:
        return None
    source = base64.b64encode(content).decode()
    return Markup('<img alt="{}" loading="lazy" src="data:image/jpeg;base64,{}">').format(alt, source)


def encoded(path: Path, side: int) -> bytes | None:
    """Return a PNG file, shrunk to `side` pixels, as JPEG bytes; None if it is missing, too large or damaged."""
    if not is_there(path):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about harmless damage
            with Image.open(path, formats=["PNG"]) as image:
                if image.width * image.height > MAX_PIXELS:
                    return None
                image.thumbnail((side, side))
                buffer = io.BytesIO()
                image.convert("L" if image.mode in ("1", "L") else "RGB").save(buffer, "JPEG", quality=80)
    except Exception:  # errors of damaged or malicious files have no common type; the report omits the picture
        return None
    return buffer.getvalue()
