"""The location of the packaged configs, in a checkout and in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
