"""Optional packages that loggers need."""

from collections.abc import Iterable
from importlib.util import find_spec

from vae_lab.system.config_dir import CONF


def require_packages(names: Iterable[str]) -> None:
    """Raise ValueError if a chosen logger of conf/logger needs a package, of the same name, that is not installed."""
    for name in names:
        if (CONF / "logger" / f"{name}.yaml").is_file() and not is_installed(name):
            raise ValueError(f"logger={name} is not installed: pip install 'vae_lab[{name}]', or choose logger=none.")


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; a folder of that name without a module does not count."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
