"""Where Beholder keeps what it has fetched and made."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$BEHOLDER_CACHE``, or the folder that this system sets aside for caches."""
    from platformdirs import user_cache_path

    named = os.environ.get("BEHOLDER_CACHE")
    return Path(named).expanduser() if named else user_cache_path("beholder", appauthor=False)
