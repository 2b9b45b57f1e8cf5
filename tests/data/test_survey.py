"""What is said of somebody's pictures: the cases of field.md, rows 1 to 9, and others of their kind."""

import io
import json
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from vae_lab.data.digits import Digits
from vae_lab.data.files.decode import decode
from vae_lab.data.files.duplicates import NearDuplicates, near_duplicates
from vae_lab.data.folder import Folder
from vae_lab.data.survey import Survey
from vae_lab.training.run import train_run

SETTINGS = {
    "channels": 1, "image_size": 32, "batch_size": 2, "eval_batch_size": 8, "seed": 0, "split_seed": 0,
    "val_fraction": 0.1, "test_fraction": 0.1, "on_bad": "skip", "max_pixels": 10**6, "background": 255,
    "memory_limit": 2**30,
}  # fmt: skip
MAX_LINES = 12

Make = Callable[[Path], Any]


def blob(seed: int, height: int = 48, width: int = 48, top: float = 255, kind: type = np.uint8) -> np.ndarray:
    """A soft spot anywhere on a rough ground."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = random.uniform(0.1, 0.9, 2) * (height, width)
    spot = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * (random.uniform(0.05, 0.2) * height) ** 2)) * 0.6
    rough = np.kron(random.uniform(0, 0.4, (8, 8)), np.ones((-(-height // 8), -(-width // 8))))[:height, :width]
    return (np.clip(spot + rough, 0, 1) * top).astype(kind)


def put(folder: Path, n: int, *, first: int = 0, ext: str = "png", **how: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        Image.fromarray(blob(i, **how)).save(folder / f"{i:03}.{ext}")


def plain(root: Path) -> None:
    put(root, 20)


def bits12(root: Path) -> None:
    put(root, 20, top=4095, kind=np.uint16)


def bits12_with_a_broken_pixel(root: Path) -> None:
    bits12(root)
    pixels = blob(0, top=4095, kind=np.uint16)
    pixels[0, 0] = 65535
    Image.fromarray(pixels).save(root / "000.png")


def dark_8_bits(root: Path) -> None:
    put(root, 20, top=40)


def mixed_depths(root: Path) -> None:
    put(root, 10)
    put(root, 10, first=10, top=65535, kind=np.uint16)


def few_bits(root: Path) -> None:
    """As a program that makes PNGs smaller leaves them: no reason to warn."""
    put(root, 10)
    for i in range(10, 20):
        Image.fromarray(blob(i)).convert("1").save(root / f"{i}.png")


def stacks(root: Path) -> None:
    root.mkdir()
    for i in range(20):
        pages = [Image.fromarray(blob(100 * i + page)) for page in range(5)]
        pages[0].save(root / f"{i}.tif", save_all=True, append_images=pages[1:])


def wide(root: Path) -> None:
    put(root, 20, width=192)


def photographs(root: Path) -> None:
    put(root, 20, width=72)


def several_sizes(root: Path) -> None:
    put(root, 12, width=60)
    put(root, 5, first=12, width=480)
    put(root, 3, first=17, height=32, width=32)


def parts(root: Path) -> None:
    for number, (part, n) in enumerate((("Train", 12), ("valid", 4), ("test", 4))):
        for animal, first in (("cat", 100), ("dog", 200)):
            put(root / part / animal, n, first=first + 20 * number)


def parts_below(root: Path) -> None:
    for number, (place, n) in enumerate((("set/cat/training", 15), ("set/cat/testing", 5))):
        put(root / place, n, first=20 * number)


def one_part(root: Path) -> None:
    put(root / "train", 20)


def masks(root: Path) -> None:
    put(root / "pictures", 15)
    put(root / "ground_truth", 5, first=15)


def masks_only(root: Path) -> None:
    put(root / "masks", 20)


def animals(root: Path) -> None:
    put(root / "cat", 15)
    put(root / "dog", 5, first=15)


def twins(root: Path) -> None:
    put(root, 20)
    for i in range(20):
        Image.fromarray(blob(i)).save(root / f"{i:03}.jpg", quality=92)


def one_colour(root: Path) -> None:
    root.mkdir()
    for i in range(20):
        Image.new("L", (16, 16), 12 * i + 7).save(root / f"{i}.png")


SUBFOLDERS = {"labels": "subfolders"}
SIZES = {"sizes": {"smallest": [32, 32], "median": [60, 48], "largest": [480, 48]}}
CASES: list[tuple[Make, dict[str, str], dict[str, Any], list[str]]] = [
    (plain, {}, {"nfiles": 20, "npages": 20, "npictures": 20, "formats": {"PNG": 20}, "depths": {"8": 20}}, []),
    (bits12, {}, {"depths": {"16": 20}, "white": 65535}, ["less than a quarter of the range of values"]),
    (bits12_with_a_broken_pixel, {}, {"white": 65535}, ["less than a quarter of the range of values"]),
    (dark_8_bits, {}, {"white": 255}, ["less than a quarter of the range of values"]),
    (mixed_depths, {}, {"depths": {"8": 10, "16": 10}}, ["differ in depth (bits per sample: 8 in 10 files, 16 in 10"]),
    (few_bits, {}, {"depths": {"1": 10, "8": 10}}, []),
    (stacks, {}, {"npages": 100, "npictures": 20}, ["80 more pages or frames in 20 files are left out"]),
    (wide, {}, {"share_cut_off": 0.75}, ["75 % of the median picture lies outside its central square"]),
    (photographs, {}, {"share_cut_off": pytest.approx(1 / 3)}, []),
    (several_sizes, {}, SIZES | {"share_cut_off": pytest.approx(0.2)}, []),
    (parts, {}, {}, ["the folders Train, test, valid look like the splits of a data set, but their pictures"]),
    (parts, SUBFOLDERS, {}, ["the folders Train, test, valid are used as classes", "<root>/Train"]),
    (parts_below, {}, {}, ["the folders training, testing look like the splits"]),
    (one_part, {}, {"folders": {"train": {"train": 16, "val": 2, "test": 2}}}, []),
    (masks, {}, {}, ["5 of 20 pictures lie in folders called ground_truth"]),
    (masks_only, {}, {}, []),
    (animals, {}, {}, ["in 2 folders (cat, dog), which are not used as labels", "model.nclasses=2"]),
    (animals, SUBFOLDERS, {}, []),
    (twins, {}, {"exact_duplicates": 0}, ["validation and test pictures have a near duplicate in another part"]),
    (one_colour, {}, {"near_duplicates": {"looked_at": 4, "found": 0}, "used": [7.0, 235.0]}, []),
]  # fmt: skip


def survey(root: Path, **settings: Any) -> Survey:
    return Folder(**{**SETTINGS, "root": str(root), "cache": str(root.parent / "cache"), **settings}).survey


@pytest.mark.parametrize(
    ("make", "settings", "facts", "sentences"), CASES, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_was_found_is_said_and_what_is_seldom_meant_warned_of(
    tmp_path: Path, make: Make, settings: dict[str, str], facts: dict[str, Any], sentences: list[str]
) -> None:
    make(tmp_path / "root")
    found = survey(tmp_path / "root", **settings)
    assert {key: found.facts[key] for key in facts} == facts
    assert len(found.warnings) == bool(sentences)
    for sentence in sentences:
        assert sentence in found.warnings[0]
    assert found.warnings == tuple(warning for warning in found.warnings if warning.endswith("."))
    assert len(found.lines) <= MAX_LINES
    mapped = [survey(tmp_path / "root", memory_limit=0, **settings) for _ in range(2)]  # decoded, and from the cache
    assert mapped == [found, found]
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


def test_every_picture_is_accounted_for(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for i in range(9):
        put(root / f"f{i}", 3 + i, first=20 * i)
    put(root, 2, first=500)
    (root / "notes.txt").write_text("words")
    data = Folder(**{**SETTINGS, "root": str(root), "cache": str(tmp_path / "cache"), "max_pixels": 48 * 48})
    facts = data.survey.facts
    for name, part in data.splits._asdict().items():
        assert sum(folder[name] for folder in facts["folders"].values()) == len(part)
    assert facts["folders"].keys() == {".", *(f"f{i}" for i in range(9))}
    assert (facts["nfiles"], facts["npictures"]) == (66, 65)
    assert "pictures: 65 of 66 files (65 PNG)" in data.survey.lines
    assert "folders: 5 more, with 20 pictures" in data.survey.lines
    assert len(data.survey.lines) <= MAX_LINES


def test_classes_of_folders_are_numbered_in_the_lines(tmp_path: Path) -> None:
    animals(tmp_path / "root")
    found = survey(tmp_path / "root", labels="subfolders")
    assert found.facts["folders"]["dog"]["class"] == 1
    assert any(line.startswith("folder dog (class 1): 5 = ") for line in found.lines)


def test_it_stands_in_the_log_and_in_the_summary(
    config: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wide(tmp_path / "wide")
    few = ("model=mlp", "model.encoder.width=16")
    folder = ("data=folder", f"data.root={tmp_path / 'wide'}", "data.image_size=16", "data.batch_size=4")
    train_run(config(*folder, "data.channels=1", *few))
    told = json.loads((tmp_path / "run/summary.json").read_text())["images"]
    assert told["share_cut_off"] == 0.75
    (warning,) = told["warnings"]
    assert [record.levelno for record in caplog.records if record.getMessage() == warning] == [logging.WARNING]
    assert "pictures: 20 of 20 files (20 PNG)" in caplog.messages
    caplog.clear()
    told: Any = train_run(config("data=digits", *few, folder="digits"))["images"]
    assert told["npictures"] == sum(sum(each.values()) for each in told["classes"].values()) == 1797
    assert not any(line.startswith("pictures:") for line in caplog.messages)


def test_a_set_that_is_no_folder_counts_its_classes() -> None:
    numbers = {key: SETTINGS[key] for key in ("channels", "image_size", "batch_size", "eval_batch_size", "seed")}
    data = Digits(nval=180, ntest=180, split_seed=0, **numbers)
    counts = data.survey.facts["classes"]
    for name, part in data.splits._asdict().items():
        assert [counts[str(i)][name] for i in range(10)] == torch.bincount(part.labels).tolist()


def encoded(*pages: Image.Image, kind: str = "TIFF", **options: Any) -> bytes:
    buffer = io.BytesIO()
    pages[0].save(buffer, kind, **({"save_all": True, "append_images": pages[1:]} if pages[1:] else {}), **options)
    return buffer.getvalue()


GREY, DEEP = Image.fromarray(blob(0)), Image.fromarray(blob(0, top=1000, kind=np.uint16))
COLOUR = Image.fromarray(np.stack([blob(i) for i in range(3)], 2))
FLOAT = Image.fromarray(blob(0).astype(np.float32) / 510)
REDUCED = {254: 1}  # NewSubfileType: a smaller copy of another page


def with_thumbnail() -> bytes:
    """Two pages of which the second says that it is a smaller copy of the first."""
    content = bytearray(encoded(GREY, GREY.resize((8, 8)), tiffinfo=REDUCED))
    first = struct.unpack_from("<I", content, 4)[0]
    struct.pack_into("<I", content, first + 2 + 8, 0)  # the first page is none
    return bytes(content)


SOURCES = {
    "png": (encoded(GREY, kind="PNG"), ("PNG", 1, 8, 255)),
    "jpeg": (encoded(COLOUR, kind="JPEG"), ("JPEG", 1, 8, 255)),
    "palette": (encoded(COLOUR.quantize(9), kind="PNG"), ("PNG", 1, 8, 255)),
    "bilevel": (encoded(GREY.convert("1"), kind="PNG"), ("PNG", 1, 1, 255)),
    "16 bits": (encoded(DEEP, kind="PNG"), ("PNG", 1, 16, 65535)),
    "16 bits tiff": (encoded(DEEP), ("TIFF", 1, 16, 65535)),
    "float": (encoded(FLOAT), ("TIFF", 1, 32, 1)),
    "pages": (encoded(GREY, GREY, GREY), ("TIFF", 3, 8, 255)),
    "bigtiff": (encoded(GREY, GREY, GREY, big_tiff=True), ("TIFF", 3, 8, 255)),
    "thumbnail": (with_thumbnail(), ("TIFF", 1, 8, 255)),
    "cut after the first page": (encoded(GREY, GREY)[:-2400], ("TIFF", 1, 8, 255)),
    "gif": (encoded(GREY, COLOUR.convert("L"), kind="GIF"), ("GIF", 2, 8, 255)),
    "apng": (encoded(GREY, COLOUR.convert("L"), kind="PNG"), ("PNG", 2, 8, 255)),
    "webp": (encoded(COLOUR, COLOUR.rotate(90), kind="WEBP"), ("WEBP", 2, 8, 255)),
    "mpo": (encoded(COLOUR, COLOUR.rotate(90), kind="MPO"), ("MPO", 1, 8, 255)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_facts_of_a_file(name: str) -> None:
    content, expected = SOURCES[name]
    source = decode(content, 1, 16, max_pixels=10**6).source
    assert (source.format, source.npages, source.nbits, source.white) == expected
    assert (source.width, source.height) == (48, 48)
    assert 0 <= source.low < source.high <= source.white


def test_the_range_is_that_of_the_values() -> None:
    source = decode(encoded(DEEP, kind="PNG"), 1, 16, max_pixels=10**6).source
    assert (source.low, source.high) == DEEP.getextrema()


def test_near_duplicates_are_found_across_parts_alone() -> None:
    pixels = torch.randint(0, 256, (6, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pixels[3] = pixels[0].clamp(2, 253)  # in another part
    pixels[5] = pixels[4].clamp(2, 253)  # in the same
    pixels[1] = pixels[2] = 7  # one colour
    hashes = np.array([1, 0, 0, 3, 9, 9], dtype=np.uint64)
    part = torch.tensor([0, 0, 1, 1, 2, 2])
    assert near_duplicates(pixels, hashes, part) == NearDuplicates(4, 1, (0, 3))
    other = np.array([1, 0, 0, 2**64 - 1, 9, 9], dtype=np.uint64)
    assert near_duplicates(pixels, other, part) == NearDuplicates(4, 0, None)
