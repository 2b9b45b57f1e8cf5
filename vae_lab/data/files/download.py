"""Download of data sets that are published as zip archives."""

import hashlib
import http.client
import logging
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from vae_lab.data.files.staging import made_folder, whole_folder
from vae_lab.errors import DataError, require_count
from vae_lab.system.progress import bar

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 2**20
MAX_BYTES = 16 * 2**30
"""Maximum size of an archive and of the extracted files."""

# Errors of a network, a server, a disk and a broken or hostile zip file.
FAILURES = (
    OSError,  # also URLError, HTTPError, TimeoutError, a full disk
    http.client.HTTPException,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # unknown compression
    RuntimeError,  # encrypted
    ValueError,
)


class _UnwantedError(ValueError):
    """The downloaded file is not the expected archive; the message says how it differs."""


class ZipArchive:
    """A zip archive on the web, of which the files in one folder are wanted.

    Args:
        url: of the archive; http is as safe as https, because the content is verified.
        members: path of the folder inside the archive, ending with a slash.
        digest: `files_digest` of the files.
        nfiles: number of files.
    """

    def __init__(self, *, url: str, members: str, digest: str, nfiles: int) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"data.archive.url must begin with https:// or http://, not be {url!r}.")
        if not members.endswith("/"):
            raise ValueError(f"data.archive.members must name a folder and end with a slash, not be {members!r}.")
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ValueError(f"data.archive.digest must be 64 hexadecimal digits (SHA-256), not {digest!r}.")
        require_count("data.archive.nfiles", nfiles)
        self.url = url
        self.members = members
        self.digest = digest
        self.nfiles = nfiles

    def download(self, folder: Path) -> None:
        """Download the wanted files into `folder`, which is created only when all are complete and verified.

        Raises:
            DataError: if the download fails for any reason.
        """
        log.info("downloading %s", self.url)
        try:
            # A temporary file without a name disappears when the process is killed.
            with (
                made_folder(folder.parent),
                tempfile.TemporaryFile(dir=folder.parent) as archive,
                whole_folder(folder) as unfinished,
            ):
                self._fetch(archive)
                digest = files_digest(self._extract(archive, unfinished))
                if digest != self.digest:
                    raise _UnwantedError(f"the files under {self.members} differ from those expected: digest {digest}")
        except FAILURES as error:
            if isinstance(error, HTTPError):
                error.close()  # closes the connection
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self.url} could not be downloaded to {folder} ({reason}); try again later, or put the {self.nfiles}"
                " pictures into a folder yourself and name it with data.root=."
            ) from error
        log.info("%d files downloaded to %s", self.nfiles, folder)

    def _fetch(self, archive: IO[bytes]) -> None:
        """Download the archive from the URL into the open file `archive`."""
        request = Request(self.url, headers={"User-Agent": "vae_lab"})  # noqa: S310 (scheme checked at construction)
        with urlopen(request, timeout=TIMEOUT_SECONDS) as response, bar() as progress:  # noqa: S310
            announced = int(response.headers.get("Content-Length") or 0)
            task = progress.add_task("downloading", total=announced or None)
            while chunk := response.read(CHUNK_BYTES):
                archive.write(chunk)
                progress.advance(task, len(chunk))
                if archive.tell() > MAX_BYTES:
                    raise _UnwantedError(f"more than {MAX_BYTES:,} bytes")
        if announced and archive.tell() != announced:
            raise _UnwantedError(f"the connection ended after {archive.tell():,} of {announced:,} bytes")

    def _extract(self, archive: IO[bytes], folder: Path) -> dict[str, str]:
        """Write the wanted files into `folder`, and return the SHA-256 of each file by name."""
        with zipfile.ZipFile(archive) as opened:
            wanted = [info for info in opened.infolist() if self._is_wanted(info)]
            if len(wanted) != self.nfiles:
                raise _UnwantedError(f"{len(wanted)} files under {self.members} instead of {self.nfiles}")
            if sum(info.file_size for info in wanted) > MAX_BYTES:
                raise _UnwantedError(f"more than {MAX_BYTES:,} bytes once unpacked")
            return {name: _copy(opened, info, folder / name) for info in wanted for name in [self._base(info)]}

    def _is_wanted(self, info: zipfile.ZipInfo) -> bool:
        """Return whether an entry is a regular file directly in the folder `members`, with a safe name."""
        base = self._base(info)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not info.filename.startswith(self.members) or kind not in (0, stat.S_IFREG):
            return False
        return bool(base) and not base.startswith(".") and not set(base) & set("/\\:")

    def _base(self, info: zipfile.ZipInfo) -> str:
        return info.filename.removeprefix(self.members)


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> str:
    """Write a file of the archive to `target`, which must not exist, and return the SHA-256 of its content."""
    digest = hashlib.sha256()
    with archive.open(info) as source, target.open("xb") as file:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def files_digest(digests: Mapping[str, str]) -> str:
    r"""Return one SHA-256 for a set of files, given the SHA-256 of each file by name.

    It is the hash of the UTF-8 lines "<name> <SHA-256 of the content>\n", sorted by the bytes of the names.
    """
    names = sorted(digests, key=lambda name: name.encode("utf-8", "surrogateescape"))
    lines = "".join(f"{name} {digests[name]}\n" for name in names)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
