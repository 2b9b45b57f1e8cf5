"""Words on grids of images: a caption above, and a text beside each row."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vae_lab.data.grids import Grid

SIZE = 13
"""Height of the letters in pixels."""
MARGIN = 6
LEAST = 360
"""Width in pixels below which a caption would need many lines."""


def captioned(picture: Grid, caption: str, rows: Sequence[str] = ()) -> UInt8[Tensor, "3 height width"]:
    """Return a grid on white, below a caption and to the right of a text for each of its rows.

    Args:
        picture: the grid, of rows of equal height.
        caption: a sentence, which is broken into lines.
        rows: texts of the rows from the top down, with at most three lines each; empty for none.
    """
    height, width = picture.shape[1:]
    left = max((width_of(line) for row in rows for line in row.splitlines()), default=-2 * MARGIN) + 2 * MARGIN
    total = max(left + width, LEAST)
    lines = broken(caption, total - 2 * MARGIN)
    top = len(lines) * (SIZE + 5) + 2 * MARGIN
    sheet = Image.new("RGB", (total, top + height), "white")
    sheet.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (left, top))
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((MARGIN, MARGIN), "\n".join(lines), "black", font(), spacing=5)
    for number, row in enumerate(rows):
        middle = top + height * (number + 0.5) / len(rows)
        draw.multiline_text((left - MARGIN, middle), row, "black", font(), anchor="rm", align="right", spacing=3)
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).contiguous()


def broken(text: str, width: int) -> list[str]:
    """Return a text in lines of at most `width` pixels, with breaks between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width_of(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def width_of(line: str) -> int:
    """Return the width of a line in pixels."""
    return round(font().getlength(line))


@cache
def font() -> ImageFont.FreeTypeFont:
    """Return matplotlib's font, which has the letters of most alphabets; Pillow's has Latin ones alone."""
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", SIZE)
