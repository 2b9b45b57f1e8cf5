"""Optional packages that loggers need."""

from collections.abc import Iterable
from importlib.util import find_spec

from vae_lab.system.config_dir import CONF


def require_packages(names: Iterable[str]) -> None:
    """Raise ValueError if a packaged logger lacks its package, which has the name of the file in conf/logger."""
    for name in names:
        if (CONF / "logger" / f"{name}.yaml").is_file() and not is_installed(name):
            raise ValueError(f"logger={name} is not installed: pip install 'vae_lab[{name}]', or choose logger=none.")


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; a folder of its name, such as the one in a run folder, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
