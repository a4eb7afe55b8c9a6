"""Precomputed proposals: the store, third-party formats, conversion, generation, recall and inspection.

A proposal file maps an image id to boxes and scores. The mapping is in ``mapping.py``, the file in
``store.py``, third-party formats are in ``formats/``. Nothing here imports `ohem_d2.data`, and only Selective
Search imports OpenCV.
"""

from .mapping import Proposals
from .reading import read_proposals
from .recall import ProposalStatistics, proposal_recall, summarize_proposals
from .store import ProposalWriter, write_proposals

__all__ = [
    "ProposalStatistics",
    "ProposalWriter",
    "Proposals",
    "proposal_recall",
    "read_proposals",
    "summarize_proposals",
    "write_proposals",
]
