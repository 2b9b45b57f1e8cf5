"""The server of the page: Streamlit on the loopback address."""

import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_lab.errors import require_count

if TYPE_CHECKING:
    from vae_lab.exploring.explored import Explored

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
FIRST_PORT, NPORTS = 8501, 100
OPTIONS: dict[str, Any] = {
    "server.address": ADDRESS,
    "server.headless": True,  # the browser is opened here
    "server.baseUrlPath": "",
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.fileWatcherType": "none",  # it would walk torch.classes, which raises an error
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "viewer",
    "logger.hideWelcomeMessage": True,
    "global.developmentMode": False,
}
"""Options of Streamlit, which override those of its config files."""

_served: list["Explored"] = []


def require_streamlit() -> None:
    """Raise ValueError if Streamlit is not installed, or has no `App.run`."""
    try:
        from streamlit import App  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError as error:
        raise ValueError("the page needs Streamlit 1.59 or later: pip install 'vae_lab[explore]'.") from error


def free_port(port: object) -> int:
    """Return `port`, or for None the first free port from 8501.

    Raises:
        ValueError: if the port is in use, or is not a port.
    """
    if port is None:
        last = FIRST_PORT + NPORTS - 1
        free = next(filter(is_free, range(FIRST_PORT, last + 1)), None)
        if free is None:
            raise ValueError(f"the ports {FIRST_PORT} to {last} are in use; choose another one with port=.")
        return free
    require_count("port", port, 1, f"; port=null takes the first free one from {FIRST_PORT}")
    assert isinstance(port, int)
    if port > 65535:
        raise ValueError(f"port={port} is above 65535; choose a smaller one.")
    if not is_free(port):
        raise ValueError(f"port={port} is in use or reserved; choose another one, or port=null for a free one.")
    return port


def is_free(port: int) -> bool:
    """Return whether a server can listen on a port of the loopback address."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def has_display() -> bool:
    """Return whether a browser can show a page; a text browser would take the terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def serve(explored: "Explored", port: int, *, browser: bool) -> None:
    """Serve the page of a run on the loopback address, until a signal ends the process.

    Args:
        explored: the run.
        port: a free port.
        browser: whether to open the page in the browser, if there is a display.
    """
    from streamlit import App  # pyright: ignore[reportMissingImports]

    address = f"http://{ADDRESS}:{port}"

    @asynccontextmanager
    async def announce(_: object) -> AsyncIterator[None]:
        log.info("the page of %s is at %s; Ctrl-C ends it", explored.folder, address)
        if browser and has_display():
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        yield

    _served[:] = [explored]
    App(Path(__file__).with_name("app.py"), lifespan=announce).run(config=OPTIONS | {"server.port": port})


def explored_run() -> "Explored":
    """Return the run that this process serves."""
    return _served[0]
