"""The version, said once: packaging, the documentation and caches read it here."""

__version__ = "0.1.0"
