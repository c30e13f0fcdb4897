"""The cache folder: downloads, assembled and compiled models."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$BEHOLDER_CACHE``, or this system's folder for caches."""
    from platformdirs import user_cache_path

    named = os.environ.get("BEHOLDER_CACHE")
    return Path(named).expanduser() if named else user_cache_path("beholder", appauthor=False)
