"""Put a run's pictures side by side, as the README shows them: python docs/montage.py <run folder> docs/mnist.png."""

import sys
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 470, 16


def main(run: Path, out: Path) -> None:
    """Write reconstructions (the first rows), samples and traversals beside each other on white."""
    pictures = []
    for name in ("reconstructions", "samples", "traversals"):
        with Image.open(run / "figures" / f"{name}.png") as picture:
            square = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, picture.width)))
            pictures.append(
                square.resize((round(square.width * HEIGHT / square.height), HEIGHT), Image.Resampling.LANCZOS)
            )
    sheet = Image.new("RGB", (sum(p.width for p in pictures) + GAP * (len(pictures) - 1), HEIGHT), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    sheet.save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
