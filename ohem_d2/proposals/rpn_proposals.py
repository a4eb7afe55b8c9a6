"""Proposals from the region proposal network (RPN) of a trained Detectron2 model."""

import hashlib
import logging
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray

from ..utils.checkpoint import CheckedCheckpointer

__all__ = ["RPNProposals"]

logger = logging.getLogger(__name__)

_ADVICE = "; take the config and weights of a Faster R-CNN, for instance"


class RPNProposals:
    """The RPN of a model in test mode, as a `ProposalMethod`.

    Boxes are in pixels of the image before resizing, clipped to it; those without area are dropped. The score
    is the objectness logit.
    """

    name = "rpn"

    def __init__(
        self,
        cfg: CfgNode,
        weights: str = "",
        top_k: int = 2000,
        nms_thresh: float = 0.7,
        workers: int | None = None,
    ) -> None:
        """Load the backbone and the RPN of a model.

        Args:
            cfg: config of any model with a backbone and an RPN; it is not changed. They run on
                ``cfg.MODEL.DEVICE``.
            weights: checkpoint; "": ``cfg.MODEL.WEIGHTS``.
            top_k: maximum number of boxes per image.
            nms_thresh: IoU, in [0, 1], above which the box of lower score is dropped.
            workers: processes that load images; None or 0: this process loads them.

        Raises:
            ValueError: a model without RPN, or with one of rotated boxes; weights that lack the RPN or its
                backbone; an option out of its range.
            FileNotFoundError: no such weights.
        """
        _check_options(top_k, nms_thresh, workers)
        self._cfg, self._workers = _test_config(cfg, weights, top_k, nms_thresh), workers or 0
        self._model = _load_model(self._cfg)
        self.parameters = {
            "top_k": top_k,
            "nms_thresh": float(nms_thresh),
            "config": _config_digest(self._cfg),
            "weights": _file_digest(self._cfg.MODEL.WEIGHTS),
        }

    def __call__(
        self, records: Sequence[Mapping[str, Any]]
    ) -> Generator[tuple[NDArray[Any], NDArray[Any]], None, None]:
        mapper = DatasetMapper(self._cfg, is_train=False)
        loader = build_detection_test_loader(list(records), mapper=mapper, num_workers=self._workers)
        logger.info("Region proposals of %d images, on %s", len(records), self._cfg.MODEL.DEVICE)
        try:
            for inputs in loader if records else ():
                yield self._propose(inputs)
        except (OSError, ValueError) as error:  # from a worker it comes with the traceback as its message
            raise type(error)(str(error).strip().splitlines()[-1]) from None

    @torch.no_grad()
    def _propose(self, inputs: list[dict[str, Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Propose boxes for one image: in a batch, padding would make them depend on the other images."""
        proposals = self._model(inputs)[0]["proposals"]
        return proposals.proposal_boxes.tensor.cpu().numpy(), proposals.objectness_logits.cpu().numpy()


def _test_config(cfg: CfgNode, weights: str, top_k: int, nms_thresh: float) -> CfgNode:
    model, generator = cfg.MODEL, cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if generator in ("PrecomputedProposals", "RRPN"):
        raise ValueError(f"PROPOSAL_GENERATOR.NAME {generator} proposes no axis-aligned boxes{_ADVICE}")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"  # the model without all that comes after its proposals
    cfg.MODEL.LOAD_PROPOSALS = False
    cfg.MODEL.WEIGHTS = weights or model.WEIGHTS
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = top_k
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = max(top_k, model.RPN.PRE_NMS_TOPK_TEST)
    cfg.MODEL.RPN.NMS_THRESH = nms_thresh
    return cfg


def _load_model(cfg: CfgNode) -> torch.nn.Module:
    weights = cfg.MODEL.WEIGHTS
    if not weights:
        raise ValueError("no weights: give a checkpoint of the model, or MODEL.WEIGHTS in its config")
    model: torch.nn.Module = build_model(cfg).eval()
    checkpointer = CheckedCheckpointer(model, save_to_disk=False)
    checkpointer.load(weights)
    missing = [
        key for key in checkpointer.missing_keys if key.startswith(("backbone.", "proposal_generator."))
    ]
    if missing:
        what = f"{len(missing)} weights of a proposal network, {missing[0]} for one"
        raise ValueError(f"{weights} lacks {what}{_ADVICE}")
    return model


def _config_digest(cfg: CfgNode) -> str:
    """Digest of all keys that the boxes can depend on; where weights and model lie is left out."""
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = ""
    text = "\n".join(section.dump() for section in (cfg.MODEL, cfg.INPUT))
    return hashlib.sha256(text.encode()).hexdigest()


def _file_digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(PathManager.get_local_path(path), "rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def _check_options(top_k: int, nms_thresh: float, workers: int | None) -> None:
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    if not 0 <= nms_thresh <= 1:
        raise ValueError(f"nms is {nms_thresh}; it must be in [0, 1]")
    if workers is not None and workers < 0:
        raise ValueError(f"workers is {workers}; it must be 0 or more")
