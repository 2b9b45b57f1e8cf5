"""Downloads from a real web server on the loopback address, whole ones and every other kind."""

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sweeping import LIMIT

from vae_lab.data.files.download import ZipArchive, files_digest
from vae_lab.data.folder import Folder
from vae_lab.errors import DataError

REPOSITORY = Path(__file__).parents[2]
MONET = REPOSITORY.parent / "shared/data/monet"


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {f"{i}.png": picture(i) for i in range(10)} | {"é b.png": picture(99)}
DIGEST = files_digest({name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()})


def packed(files: dict[str, bytes], others: dict[str, bytes] | None = None, prefix: str = "set/trainA/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(prefix, b"")
        for name, content in files.items():
            archive.writestr(prefix + name, content)
        for name, content in (others or {}).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_link() -> bytes:
    buffer = io.BytesIO(packed({name: content for name, content in FILES.items() if name != "0.png"}))
    with zipfile.ZipFile(buffer, "a") as archive:
        link = zipfile.ZipInfo("set/trainA/0.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def damaged() -> bytes:
    content = bytearray(GOOD)
    content[GOOD.index(b"3.png") + 60] ^= 255
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(GOOD)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for match in re.finditer(re.escape(signature), GOOD):
            content[match.start() + offset] |= 1
    return bytes(content)


UNWANTED = {
    "set/trainB/0.png": b"another folder",
    "set/trainA/deeper/x.png": b"deeper",
    "set/trainA/../../escaped.png": b"traversal",
    "set/trainA/.DS_Store": b"hidden",
    "set/trainA/..": b"parent",
    "set/trainA/a\\b.png": b"windows",
    "/set/trainA/absolute.png": b"absolute",
    "../../outside.png": b"outside",
    "readme.txt": b"top",
}
GOOD = packed(FILES, UNWANTED)

PAGES = {
    "good.zip": (200, GOOD),
    "page.zip": (200, b"<!DOCTYPE html><html><body>Sign in</body></html>"),
    "empty.zip": (200, b""),
    "cut.zip": (200, GOOD[: len(GOOD) // 2]),
    "damaged.zip": (200, damaged()),
    "encrypted.zip": (200, encrypted()),
    "link.zip": (200, with_link()),
    "fewer.zip": (200, packed({name: content for name, content in FILES.items() if name != "4.png"})),
    "more.zip": (200, packed({**FILES, "more.png": b"more"})),
    "other.zip": (200, packed({**FILES, "4.png": picture(5)})),
    "renamed.zip": (200, packed({name.replace("4", "44"): content for name, content in FILES.items()})),
    "elsewhere.zip": (200, packed(FILES, prefix="other/")),
    "busy.zip": (503, b"later"),
    "moved.zip": (302, b"good.zip"),
    "file.zip": (302, b"file:///etc/passwd"),
}


class Server(ThreadingHTTPServer):
    """Serves the pages; one of them hangs until it is released."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hung, self.released = threading.Event(), threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        status, content = PAGES.get(name, (404, b"no such page"))
        if name in ("dropped.zip", "hanging.zip"):
            status, content = 200, GOOD
        self.send_response(status)
        if status == 302:
            self.send_header("Location", content.decode())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:2000] if name in ("dropped.zip", "hanging.zip") else content)
        if name == "hanging.zip":
            self.wfile.flush()
            self.server.hung.set()
            self.server.released.wait(LIMIT)

    def log_message(self, format, *args):  # noqa: A002
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.02,))
    thread.start()
    yield running
    running.released.set()
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "monet"


def archive(server: Server, page: str, **settings: object) -> ZipArchive:
    url = f"http://127.0.0.1:{server.server_port}/{page}"
    return ZipArchive(**{"url": url, "members": "set/trainA/", "digest": DIGEST, "nfiles": 11, **settings})


@pytest.mark.parametrize("page", ["good.zip", "moved.zip"])
def test_the_wanted_files_arrive_whole(server, target, page):
    archive(server, page).download(target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == FILES
    assert list(target.parent.iterdir()) == [target]
    assert list(target.parent.parent.iterdir()) == [target.parent]


FAILURES = {
    "missing.zip": "404",
    "busy.zip": "503",
    "page.zip": "not a zip file",
    "empty.zip": "not a zip file",
    "cut.zip": "not a zip file",
    "damaged.zip": "Bad CRC|Error -3",
    "encrypted.zip": "encrypted",
    "link.zip": "10 files under set/trainA/ instead of 11",
    "fewer.zip": "10 files under set/trainA/ instead of 11",
    "more.zip": "12 files under set/trainA/ instead of 11",
    "elsewhere.zip": "0 files under set/trainA/ instead of 11",
    "other.zip": "differ from those expected: digest [0-9a-f]{64}",
    "renamed.zip": "differ from those expected",
    "dropped.zip": "the connection ended after 2,000 of",
    "file.zip": "file:///etc/passwd",
}


@pytest.mark.parametrize("page", FAILURES)
def test_a_failed_download_leaves_nothing(server, target, page):
    with pytest.raises(DataError, match=FAILURES[page]) as raised:
        archive(server, page).download(target)
    message = str(raised.value)
    assert message.startswith(f"http://127.0.0.1:{server.server_port}/{page} could not be downloaded to {target} (")
    assert message.endswith("or put the 11 pictures into a folder yourself and name it with data.root=.")
    assert not target.parent.exists()


def test_no_network_is_a_data_error(target):
    closed = ZipArchive(url="http://127.0.0.1:9/x.zip", members="set/trainA/", digest=DIGEST, nfiles=11)
    with pytest.raises(DataError, match="refused"):
        closed.download(target)
    unknown = ZipArchive(url="https://no-such-host.invalid/x.zip", members="set/trainA/", digest=DIGEST, nfiles=11)
    with pytest.raises(DataError, match="could not be downloaded"):
        unknown.download(target)


def test_no_room_is_a_data_error(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="could not be downloaded"):
        archive(server, "good.zip").download(tmp_path / "file" / "monet")


def test_a_folder_that_is_there_stays(server, target):
    target.mkdir(parents=True)
    archive(server, "good.zip").download(target)  # an empty one is replaced
    (target / "0.png").write_bytes(b"mine")
    archive(server, "good.zip").download(target)
    assert (target / "0.png").read_bytes() == b"mine"
    assert list(target.parent.iterdir()) == [target]


def test_a_killed_download_leaves_no_folder(server, target):
    code = (
        "import sys; from pathlib import Path; from vae_lab.data.files.download import ZipArchive\n"
        "ZipArchive(url=sys.argv[1], members='set/trainA/', digest='0' * 64, nfiles=11).download(Path(sys.argv[2]))"
    )
    url = f"http://127.0.0.1:{server.server_port}/hanging.zip"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", code, url, str(target)], env=environment) as child:
        assert server.hung.wait(LIMIT)
        time.sleep(0.1)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not target.exists()
    assert not [path for path in target.parent.rglob("*") if path.is_file()]
    archive(server, "good.zip").download(target)
    assert len(list(target.iterdir())) == 11


SETTINGS = {"channels": 3, "image_size": 8, "batch_size": 2, "eval_batch_size": 8, "seed": 0, "split_seed": 0,
            "val_fraction": 0.2, "test_fraction": 0.2, "on_bad": "fail", "max_pixels": 10**6, "background": 255,
            "memory_limit": 2**30, "cache": "unused"}  # fmt: skip


def test_a_folder_downloads_itself_if_allowed(server, target):
    source = archive(server, "good.zip")
    with pytest.raises(DataError, match=r"does not exist; .*data\.root=, or download them with data\.download=true\.$"):
        Folder(root=str(target), archive=source, **SETTINGS).load()
    data = Folder(root=str(target), archive=source, download=True, **SETTINGS)
    assert [len(part) for part in data.splits] == [7, 2, 2]
    again = Folder(root=str(target), archive=archive(server, "missing.zip"), download=True, **SETTINGS)
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"url": "ftp://host/x.zip"}, "data.archive.url must begin with https:// or http://"),
        ({"url": "file:///x.zip"}, "data.archive.url"),
        ({"url": "/x.zip"}, "data.archive.url"),
        ({"members": "set"}, "data.archive.members must name a folder and end with a slash"),
        ({"digest": "abc"}, "data.archive.digest must be 64 hexadecimal digits"),
        ({"digest": "G" * 64}, "data.archive.digest"),
        ({"nfiles": 0}, "data.archive.nfiles must be a whole number of at least 1, not 0"),
    ],
)
def test_wrong_settings_are_named_at_construction(server, settings, sentence):
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        archive(server, "good.zip", **settings)


def test_the_digest_is_that_of_sorted_lines():
    lines = "".join(f"{name} {hashlib.sha256(FILES[name]).hexdigest()}\n" for name in sorted(FILES))
    assert hashlib.sha256(lines.encode()).hexdigest() == DIGEST


@pytest.mark.skipif(not MONET.is_dir(), reason="the paintings are not here")
def test_the_monets_have_the_digest_in_the_config():
    config = yaml.safe_load((REPOSITORY / "conf/data/monet.yaml").read_text())["archive"]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in MONET.iterdir()}
    assert (files_digest(digests), len(digests)) == (config["digest"], config["nfiles"])
