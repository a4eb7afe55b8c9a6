"""
Precomputed proposals: a mapping from image id to boxes and scores, its file, and the files of others.

Mapping and file: ``mapping.py``, ``store.py``; formats of others: ``formats/``.
"""

from .mapping import Proposals
from .reading import read_proposals
from .store import ProposalWriter, write_proposals

__all__ = ["ProposalWriter", "Proposals", "read_proposals", "write_proposals"]
