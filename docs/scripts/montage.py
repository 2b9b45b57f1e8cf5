"""Put pictures beside each other, as the README shows them.

python docs/scripts/montage.py docs/mnist.png <run folder>/figures/{reconstructions,samples,traversals}.png
"""

import sys
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 470, 16


def main(out: Path, *pictures: Path) -> None:
    """Write the upper squares of the pictures side by side on white."""
    squares = []
    for path in pictures:
        with Image.open(path) as picture:
            square = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, picture.width)))
            squares.append(
                square.resize((round(square.width * HEIGHT / square.height), HEIGHT), Image.Resampling.LANCZOS)
            )
    sheet = Image.new("RGB", (sum(p.width for p in squares) + GAP * (len(squares) - 1), HEIGHT), "white")
    left = 0
    for square in squares:
        sheet.paste(square, (left, 0))
        left += square.width + GAP
    sheet.save(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
