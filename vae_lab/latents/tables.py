"""Tables of latents as CSV, Parquet or NPZ, written block by block so that memory does not grow with the images."""

import csv
import io
import json
import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from vae_lab.data.files.listing import printable
from vae_lab.data.files.own_output import first_bytes
from vae_lab.errors import require_choice
from vae_lab.reporting.tables import cell, literal
from vae_lab.system.atomic import whole

TEXTS = ("path", "class", "reason")
NUMBERS = ("score", "mean", "log_sigma")
SUFFIXES = (".csv", ".parquet", ".npz")
CHUNK = 65_536
"""Texts that are converted to an array at a time."""


class Block(NamedTuple):
    """Some rows of a table; the numbers of a file that cannot be used are NaN.

    Attributes:
        path: of the files.
        class_: name of the class, or "".
        reason: why a file cannot be used, else "".
        score: of the images.
        mean: of the posteriors.
        log_sigma: of the posteriors.
        pixels: the images as the model sees them, and black ones for files that cannot be used.
    """

    path: list[str]
    class_: list[str]
    reason: list[str]
    score: Float[np.ndarray, " rows"]
    mean: Float[np.ndarray, "rows nlatent"]
    log_sigma: Float[np.ndarray, "rows nlatent"]
    pixels: UInt8[Tensor, "rows channels height width"]


class Table(ABC):
    """Base class of tables that are being written.

    Args:
        path: the file.
        nlatent: number of latents.
        facts: what the table was made of, which Parquet stores.
    """

    def __init__(self, path: Path, nlatent: int, facts: Mapping[str, object]) -> None:
        self.path = path
        self.nlatent = nlatent
        self.facts = facts

    @abstractmethod
    def write(self, block: Block) -> None:
        """Append rows."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""


class CSVTable(Table):
    """A CSV file with the columns path, class, score, reason, mean_0, …, log_sigma_0, …."""

    def __init__(self, path: Path, nlatent: int, facts: Mapping[str, object]) -> None:
        super().__init__(path, nlatent, facts)
        self.file = path.open("w", encoding="utf-8", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")
        latents = [f"{name}_{i}" for name in ("mean", "log_sigma") for i in range(nlatent)]
        self.writer.writerow(["path", "class", "score", "reason", *latents])

    def write(self, block: Block) -> None:
        """Append rows; nine digits distinguish any two float32 numbers."""
        for i, path in enumerate(block.path):
            numbers = ["" if np.isnan(x) else f"{x:.9g}" for x in (block.score[i], *block.mean[i], *block.log_sigma[i])]
            reason = literal(printable(block.reason[i]))
            self.writer.writerow([cell(path), cell(block.class_[i]), numbers[0], reason, *numbers[1:]])

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class ParquetTable(Table):
    """A Parquet file with the columns path, class, score, reason, mean, log_sigma and image.

    The latents are lists. The image is a struct of PNG bytes and a path, which Hugging Face's datasets and embedding
    atlases read as a picture. Images that cannot be used are null.
    """

    def __init__(self, path: Path, nlatent: int, facts: Mapping[str, object]) -> None:
        super().__init__(path, nlatent, facts)
        pa, parquet = arrow()
        self.pa = pa
        vector = pa.list_(pa.float32(), nlatent)
        image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns = {"path": pa.string(), "class": pa.string(), "score": pa.float32(), "reason": pa.string()}
        columns |= {"mean": vector, "log_sigma": vector, "image": image}
        metadata = {"vae_lab": json.dumps(dict(facts)), "huggingface": json.dumps(self.features())}
        self.schema = pa.schema(columns, metadata)
        self.writer = parquet.ParquetWriter(path, self.schema, compression="zstd")

    def features(self) -> dict[str, object]:
        """Return the types of the columns, as Hugging Face's datasets store them."""
        texts: dict[str, object] = {name: {"dtype": "string", "_type": "Value"} for name in TEXTS}
        number = {"dtype": "float32", "_type": "Value"}
        vector = {"feature": number, "length": self.nlatent, "_type": "Sequence"}
        found = texts | {"score": number, "mean": vector, "log_sigma": vector, "image": {"_type": "Image"}}
        return {"info": {"features": {name: found[name] for name in ("path", "class", "score", "reason", *found)}}}

    def write(self, block: Block) -> None:
        """Append rows as a group of their own."""
        pa = self.pa
        paths = [printable(path) for path in block.path]
        images = [
            None if reason else {"bytes": png_bytes(pixels), "path": path}
            for path, reason, pixels in zip(paths, block.reason, block.pixels, strict=True)
        ]
        failed = np.array([bool(reason) for reason in block.reason])
        columns = {
            "path": paths,
            "class": [printable(name) for name in block.class_],
            "score": pa.array(block.score, pa.float32(), mask=np.isnan(block.score)),
            "reason": [printable(reason) for reason in block.reason],
            **{name: self.vectors(getattr(block, name), failed) for name in ("mean", "log_sigma")},
            "image": images,
        }
        self.writer.write_table(self.pa.table(columns, self.schema))

    def vectors(self, numbers: Float[np.ndarray, "rows nlatent"], failed: np.ndarray) -> Any:  # noqa: ANN401
        """Return vectors as a column, null where `failed`."""
        flat = self.pa.array(numbers.reshape(-1), self.pa.float32())
        return self.pa.FixedSizeListArray.from_arrays(flat, self.nlatent, mask=self.pa.array(failed))

    def close(self) -> None:
        """Write the end of the file."""
        self.writer.close()


class NPZTable(Table):
    """A NumPy archive with the arrays path, class, score, reason, mean and log_sigma.

    Numbers go to one file per array first, because the parts of an archive cannot grow side by side.
    """

    def __init__(self, path: Path, nlatent: int, facts: Mapping[str, object]) -> None:
        super().__init__(path, nlatent, facts)
        self.files: dict[str, BinaryIO] = {
            name: tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed in `close`)
            for name in NUMBERS
        }
        self.texts: dict[str, list[str]] = {name: [] for name in TEXTS}

    def write(self, block: Block) -> None:
        """Append rows."""
        for name, file in self.files.items():
            file.write(getattr(block, name).astype("<f4").tobytes())
        for name, column in zip(TEXTS, (block.path, block.class_, block.reason), strict=True):
            self.texts[name].extend(map(printable, column))

    def close(self) -> None:
        """Join the arrays into the archive."""
        n = len(self.texts["path"])
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED) as archive:
            for name, texts in self.texts.items():
                kind = np.dtype(f"<U{max(1, *map(len, texts), 1)}")
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    member.write(array_header(kind.str, (n,)))
                    for start in range(0, n, CHUNK):
                        member.write(np.array(texts[start : start + CHUNK], kind).tobytes())
            for name, file in self.files.items():
                file.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member, file:
                    member.write(array_header("<f4", (n,) if name == "score" else (n, self.nlatent)))
                    shutil.copyfileobj(file, member)


def array_header(kind: str, shape: tuple[int, ...]) -> bytes:
    """Return the first bytes of a .npy file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    return header.getvalue()


def png_bytes(pixels: UInt8[Tensor, "channels height width"]) -> bytes:
    """Return an image as the bytes of a PNG file."""
    rows = pixels.permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows).save(content, format="PNG", compress_level=1)
    return content.getvalue()


def arrow() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet.

    Raises:
        ValueError: if pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "out= with a .parquet needs pyarrow: pip install 'vae_lab[tables]', or choose a .csv or .npz."
        ) from error
    return pa, parquet


KINDS: dict[str, type[Table]] = {".csv": CSVTable, ".parquet": ParquetTable, ".npz": NPZTable}


def check_table(out: Path, *, force: bool) -> None:
    """Raise ValueError unless `out` names a table that can be written, and no file but one of latents lies there.

    Only `force` overwrites other files.
    """
    require_choice("the ending of out=", out.suffix.lower(), SUFFIXES)
    if out.suffix.lower() == ".parquet":
        arrow()
    if out.exists() and not out.is_file():
        raise ValueError(f"out={out} exists and is not a file; choose another name.")
    if out.is_file() and out.stat().st_size and not force and not is_table(out):
        raise ValueError(f"{out} is not a table of encode; choose another out=, or force=true to overwrite it.")


def is_table(path: Path) -> bool:
    """Return whether a file is a table of latents that this module wrote."""
    looks: dict[str, Callable[[], bool]] = {
        ".csv": lambda: first_bytes(path, 100).startswith(b"path,class,score,reason,mean_0"),
        ".parquet": lambda: b"vae_lab" in (arrow()[1].read_schema(path).metadata or {}),
        ".npz": lambda: {f"{name}.npy" for name in (*TEXTS, *NUMBERS)} == {*zipfile.ZipFile(path).namelist()},
    }
    try:
        return looks[path.suffix.lower()]()
    except (OSError, ValueError, zipfile.BadZipFile):  # pyarrow's errors are ValueErrors
        return False


@contextmanager
def new_table(out: Path, nlatent: int, facts: Mapping[str, object]) -> Iterator[Table]:
    """Yield a table to write to, by the ending of `out`; the file appears when the block ends without an error."""
    with whole(out) as temporary:
        table = KINDS[out.suffix.lower()](temporary, nlatent, facts)
        try:
            yield table
        finally:
            table.close()


def failed_block(paths: Sequence[str], reasons: Sequence[str], nlatent: int, shape: Sequence[int]) -> Block:
    """Return rows of files that cannot be used."""
    import torch

    n = len(paths)
    numbers = np.full((n, nlatent), np.nan, np.float32)
    pixels = torch.zeros(n, *shape, dtype=torch.uint8)
    return Block([*paths], [""] * n, [*reasons], np.full(n, np.nan, np.float32), numbers, numbers, pixels)
