"""Data sets, precomputed proposals and loaders. Nothing here imports OpenCV or ``ohem_d2.modeling``."""

from .catalog import register_catalog
from .loaders import ProposalDatasetMapper, build_labelled_loader, build_test_loader, build_train_loader
from .proposals import Proposals, read_proposals, write_proposals
from .recall import ProposalStatistics, proposal_recall, summarize_proposals
from .voc import load_voc

__all__ = [
    "ProposalDatasetMapper",
    "ProposalStatistics",
    "Proposals",
    "build_labelled_loader",
    "build_test_loader",
    "build_train_loader",
    "load_voc",
    "proposal_recall",
    "read_proposals",
    "register_catalog",
    "summarize_proposals",
    "write_proposals",
]
