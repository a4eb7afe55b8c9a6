"""Every config key of ohem_d2, its meaning and its check."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from detectron2.config import CfgNode as CN

BUDGETS = ("image", "batch")
RANKINGS = ("cls+box", "cls", "box")
READONLY_DTYPES = ("auto", "float32", "float16", "bfloat16")
VOTERS = ("all", "last")


@dataclass(frozen=True)
class OHEMOptions:
    """How RoIs are mined; each field is the key of the same name under ``MODEL.OHEM``.

    The budget of one image keeps its Detectron2 key:
    b = B / N is ``MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE``.

    Raises:
        ValueError: a value out of its range; names the key, the value and the valid choices.
    """

    # None: on exactly where MODEL.ROI_HEADS.NAME names heads that mine. True: as None, and an error for heads
    # that cannot mine. False: such heads sample as their Detectron2 parents do.
    enabled: bool | None = None
    # IoU in [0, 1] above which the RoI of lower loss is dropped as a duplicate; 1.0 drops none, and skips the step.
    nms_thresh: float = 0.7
    # False: any two RoIs of an image can be duplicates (the paper). True: only RoIs of the same label
    # (the authors' released code).
    nms_per_class: bool = False
    # "image": the b hardest of each image. "batch": the N * b hardest of the N images of this process.
    budget: str = "image"
    # The loss to rank by: "cls+box" (the paper), or one of its two terms alone.
    rank_by: str = "cls+box"
    # Precision of the head in the read-only pass, whatever that of the training. "auto": float16 on CUDA, float32
    # elsewhere; bfloat16 selects too many other RoIs (benchmarks/README.md). Pooling and losses are not affected.
    readonly_dtype: str = "auto"
    # RoIs that the read-only pass takes at a time, which bounds its memory; 0: chosen.
    readonly_chunk: int = 0
    # Whether dropout is active in the read-only pass (in the authors' released nets it is).
    readonly_dropout: bool = False
    # True: every RoI goes through the trainable head and the losses of the easy ones are set to zero: the same
    # gradient for more time and memory. To compare with; not for cascades.
    naive: bool = False

    def __post_init__(self) -> None:
        _require(0 <= self.nms_thresh <= 1, "NMS_THRESH", self.nms_thresh, "a number in [0, 1]")
        for key, choices in (("budget", BUDGETS), ("rank_by", RANKINGS), ("readonly_dtype", READONLY_DTYPES)):
            value = getattr(self, key)
            _require(value in choices, key.upper(), value, "one of " + ", ".join(map(repr, choices)))
        _require(self.readonly_chunk >= 0, "READONLY_CHUNK", self.readonly_chunk, "an integer >= 0")

    @classmethod
    def from_config(cls, cfg: CN) -> "OHEMOptions":
        """Read ``cfg.MODEL.OHEM``.

        Raises:
            KeyError: no such section, an unknown key in it, or ``MODEL.ROI_HEADS.OHEM``.
            ValueError: see the class.
        """
        check_keys(cfg)
        return cls(**{f.name: cfg.MODEL.OHEM[f.name.upper()] for f in fields(cls)})


@dataclass(frozen=True)
class AnchorOHEMOptions:
    """How the anchors of a dense detector are mined; each field is the key of the same name in its section.

    Raises:
        ValueError: a value out of its range; names the key, the value and the valid choices.
    """

    # The section of these keys under MODEL.OHEM.
    section: ClassVar[str]

    # None: on exactly where the model that the config names mines anchors. True: as None, and an error for
    # one that cannot. False: such a model trains as its Detectron2 parent does.
    enabled: bool | None = None
    # Budget: the number of anchors of one image that are trained on, >= 1.
    batch_size_per_image: int = 256
    # IoU in [0, 1] above which the anchor of lower loss is dropped as a duplicate; 1.0 drops none, and skips
    # the step.
    nms_thresh: float = 0.7
    # Anchors of highest loss of one image that go into that step, >= BATCH_SIZE_PER_IMAGE; bounds its time.
    pre_nms_topk: int = 6000

    def __post_init__(self) -> None:
        budget, topk, name = self.batch_size_per_image, self.pre_nms_topk, self.section
        _require(0 <= self.nms_thresh <= 1, f"{name}.NMS_THRESH", self.nms_thresh, "a number in [0, 1]")
        _require(budget >= 1, f"{name}.BATCH_SIZE_PER_IMAGE", budget, "an integer >= 1")
        valid = f"an integer >= BATCH_SIZE_PER_IMAGE, which is {budget}"
        _require(topk >= budget, f"{name}.PRE_NMS_TOPK", topk, valid)

    @classmethod
    def from_config(cls, cfg: CN) -> "AnchorOHEMOptions":
        """Read the section of this class under ``cfg.MODEL.OHEM``; raises as `OHEMOptions.from_config`."""
        check_keys(cfg)
        return cls(**{f.name: cfg.MODEL.OHEM[cls.section][f.name.upper()] for f in fields(cls)})


@dataclass(frozen=True)
class OHEMRPNOptions(AnchorOHEMOptions):
    """``MODEL.OHEM.RPN``: how the anchors of a region proposal network are mined."""

    section: ClassVar[str] = "RPN"


@dataclass(frozen=True)
class OHEMRetinaNetOptions(AnchorOHEMOptions):
    """``MODEL.OHEM.RETINANET``: how the anchors of a RetinaNet are mined."""

    section: ClassVar[str] = "RETINANET"


@dataclass(frozen=True)
class BoxVotingOptions:
    """``TEST.BOX_VOTING``: iterative box regression and voting (Gidaris and Komodakis, ICCV 2015).

    Raises:
        ValueError: a value out of its range; names the key, the value and the valid choices.
    """

    section: ClassVar[str] = "TEST.BOX_VOTING"

    enabled: bool = False
    # Passes through the head, >= 1: the first takes the proposals, each other one the boxes that the one
    # before made of them, one per RoI: that of its best class.
    rounds: int = 2
    # IoU in [0, 1] above which NMS on the union of the rounds drops the box of lower score; takes the place
    # of MODEL.ROI_HEADS.NMS_THRESH_TEST.
    nms_thresh: float = 0.3
    # IoU in [0, 1] with a box that NMS has kept, from which on a box of its class votes for its coordinates.
    vote_thresh: float = 0.5
    # Whose boxes vote: those of "all" rounds, or of the "last".
    voters: str = "all"

    def __post_init__(self) -> None:
        name = self.section
        _require(self.rounds >= 1, "ROUNDS", self.rounds, "an integer >= 1", name)
        for key in ("nms_thresh", "vote_thresh"):
            value = getattr(self, key)
            _require(0 <= value <= 1, key.upper(), value, "a number in [0, 1]", name)
        _require(self.voters in VOTERS, "VOTERS", self.voters, "one of " + ", ".join(map(repr, VOTERS)), name)

    @classmethod
    def from_config(cls, cfg: CN) -> "BoxVotingOptions":
        """Read ``cfg.TEST.BOX_VOTING``; KeyError for an unknown key in it."""
        return _read_section(cls, cfg.TEST.BOX_VOTING)


@dataclass(frozen=True)
class SoftNMSOptions:
    """``TEST.SOFT_NMS``: Gaussian soft-NMS (Bodla et al., ICCV 2017) in place of NMS.

    Raises:
        ValueError: a value out of its range; names the key, the value and the valid choices.
    """

    section: ClassVar[str] = "TEST.SOFT_NMS"

    enabled: bool = False
    # The score of a box that overlaps a better one of its class by IoU o is multiplied by exp(-o^2 / SIGMA).
    sigma: float = 0.5

    def __post_init__(self) -> None:
        _require(self.sigma > 0, "SIGMA", self.sigma, "a number > 0", self.section)

    @classmethod
    def from_config(cls, cfg: CN) -> "SoftNMSOptions":
        """Read ``cfg.TEST.SOFT_NMS``; KeyError for an unknown key in it."""
        return _read_section(cls, cfg.TEST.SOFT_NMS)


def add_ohem_config(cfg: CN) -> None:
    """Add the keys of this project, with their defaults, to a Detectron2 config (in place)."""
    cfg.MODEL.OHEM = CN(_defaults(OHEMOptions))
    for options in (OHEMRPNOptions, OHEMRetinaNetOptions):
        cfg.MODEL.OHEM[options.section] = CN(_defaults(options))

    # The backbones "TorchvisionBackbone" and "build_torchvision_fpn_backbone" (which reads MODEL.FPN as well).
    cfg.MODEL.TORCHVISION = CN()
    # A classification network of torchvision.models.
    cfg.MODEL.TORCHVISION.NAME = "resnet50"
    # Its modules or graph nodes whose outputs are the features, in the order in which they run.
    cfg.MODEL.TORCHVISION.LAYERS = ("layer1", "layer2", "layer3", "layer4")
    # Stride of each of them in pixels, a power of two.
    cfg.MODEL.TORCHVISION.STRIDES = (4, 8, 16, 32)
    # Modules and parameters that are not trained, with all below them. MODEL.BACKBONE.FREEZE_AT is not read.
    cfg.MODEL.TORCHVISION.FREEZE = ()
    # "FrozenBN": batch normalisation by the statistics of the checkpoint. "BN": by those of the batch.
    cfg.MODEL.TORCHVISION.NORM = "FrozenBN"

    # YAML catalogues of data sets to register (see datasets/README.md); paths relative to the working folder.
    cfg.DATASETS.CATALOG = ()
    # Training images that their proposal file lacks: "error" names some of them and stops; "ground_truth" trains on
    # their annotated boxes alone. In testing it is always an error.
    cfg.DATASETS.PROPOSALS_MISSING = "error"
    # Objects that VOC marks as difficult, in training sets of VOC layout: "keep" (Detectron2) or "drop" (the authors).
    # Evaluation is not affected.
    cfg.DATASETS.VOC_DIFFICULT = "keep"

    # Batches of SOLVER.IMS_PER_BATCH images whose mean gradient makes one iteration, >= 1.
    cfg.SOLVER.ACCUMULATE = 1

    # Mean loss over all candidate RoIs of some training images, of any R-CNN, mined or not (the paper, figure 3).
    cfg.TEST.ROI_LOSS = CN()
    # Iterations between two measurements; the last iteration is always measured. 0: never.
    cfg.TEST.ROI_LOSS.PERIOD = 0
    # The first images of the first training set, without augmentation.
    cfg.TEST.ROI_LOSS.NUM_IMAGES = 64

    # Evaluators of a test set: any of "voc07" (AP at 11 recalls), "voc12" (area) and "coco"; empty: by the data set.
    cfg.TEST.EVALUATORS = ()

    # How multi-scale testing (TEST.AUG) combines its scales. "detections": all detections are merged, as in
    # Detectron2. "proposals": scores and boxes of each proposal are averaged (the paper).
    cfg.TEST.AUG.COMBINE = "detections"
    cfg.TEST.BOX_VOTING = CN(_defaults(BoxVotingOptions))
    cfg.TEST.SOFT_NMS = CN(_defaults(SoftNMSOptions))


def check_keys(cfg: CN) -> None:
    """Refuse keys that would be silently ignored.

    Raises:
        KeyError: an unknown key under ``MODEL.OHEM``, the section missing, or ``MODEL.ROI_HEADS.OHEM``.
    """
    if "OHEM" in cfg.MODEL.ROI_HEADS:
        raise KeyError(
            "MODEL.ROI_HEADS.OHEM does nothing; set MODEL.ROI_HEADS.NAME to OHEMROIHeads, keys in MODEL.OHEM"
        )
    if "OHEM" not in cfg.MODEL:
        raise KeyError(
            "the config has no section MODEL.OHEM; call ohem_d2.add_ohem_config(cfg) before reading files into it"
        )
    sections = {o.section: _defaults(o) for o in (OHEMRPNOptions, OHEMRetinaNetOptions)}
    _check_section("MODEL.OHEM", cfg.MODEL.OHEM, {**_defaults(OHEMOptions), **sections})
    for name, known in sections.items():
        _check_section(f"MODEL.OHEM.{name}", cfg.MODEL.OHEM[name], known)


def _check_section(name: str, node: Any, known: dict[str, Any]) -> None:
    if not isinstance(node, CN):
        raise KeyError(f"{name} is {node!r}; valid: a section with the keys {', '.join(known)}")
    unknown = sorted(set(node) - set(known))
    if unknown:
        raise KeyError(f"unknown key {name}.{unknown[0]}; valid: {', '.join(known)}")


def _read_section(options: type, node: Any) -> Any:
    _check_section(options.section, node, _defaults(options))
    return options(**{f.name: node[f.name.upper()] for f in fields(options)})


def _defaults(options: type) -> dict[str, Any]:
    return {f.name.upper(): f.default for f in fields(options)}


def _require(ok: bool, key: str, value: Any, valid: str, section: str = "MODEL.OHEM") -> None:
    if not ok:
        raise ValueError(f"{section}.{key} is {value!r}; valid: {valid}")
