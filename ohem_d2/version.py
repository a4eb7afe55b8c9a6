"""The version of the package; nothing else, so that whatever needs it imports nothing with it."""

__version__ = "0.2.0"
