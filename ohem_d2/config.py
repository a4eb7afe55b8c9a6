"""Every config key of ohem_d2, its meaning and its check.

A section of the config is a dataclass, a key of it is a field of the same name in lower case, and the comment
above the field explains it. Code reads keys through these dataclasses, which check the values. Paths and
names in a registry are checked where they are looked up.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from detectron2.config import CfgNode as CN

from .utils.options import Options

BUDGETS = ("image", "batch")
RANKINGS = ("cls+box", "cls", "box")
READONLY_DTYPES = ("auto", "float32", "float16", "bfloat16")
CLS_LOSSES = ("cross_entropy", "focal", "guided")
VOC_DIFFICULT = ("keep", "drop", "ignore")


class _MiningOptions(Options):
    """Options under ``MODEL.OHEM``; reading any of them checks the keys of all."""

    @classmethod
    def from_config(cls, cfg):
        """Read and check the section, and that no key is set which would be silently ignored."""
        if "OHEM" in cfg.MODEL.ROI_HEADS:
            raise KeyError(
                "MODEL.ROI_HEADS.OHEM does nothing; set MODEL.ROI_HEADS.NAME to OHEMROIHeads and the keys in "
                "MODEL.OHEM"
            )
        for options in (OHEMOptions, OHEMRPNOptions, OHEMRetinaNetOptions):
            options.check_keys(cfg)
        return super().from_config(cfg)

    def __post_init__(self) -> None:
        is_valid = self.enabled is None or isinstance(self.enabled, bool)
        self.require(is_valid, "enabled", "None, True or False")


@dataclass(frozen=True)
class OHEMOptions(_MiningOptions):
    """How RoIs are mined.

    The budget of one image keeps its Detectron2 key: b = B / N is ``MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE``.
    """

    section: ClassVar[str] = "MODEL.OHEM"
    subsections: ClassVar[tuple[str, ...]] = ("RPN", "RETINANET")

    # None: mine if MODEL.ROI_HEADS.NAME names heads that can. True: as None, and an error for heads that
    # cannot. False: heads that can mine sample as their Detectron2 parents do.
    enabled: bool | None = None
    # Which candidates are trained on: the name of a rule of `ohem_d2.mining.rules`, or of one registered in
    # MINING_RULES. "hardest" is that of the paper.
    rule: str = "hardest"
    # The rule's own parameters and their values; what is left out, or None, has its default.
    rule_args: dict = field(default_factory=dict)
    # IoU in [0, 1] above which the RoI of lower loss is dropped as a duplicate; 1.0: no NMS.
    nms_thresh: float = 0.7
    # False: any two RoIs of an image can be duplicates (the paper). True: only RoIs of the same label
    # (the authors' released code).
    nms_per_class: bool = False
    # "image": the b hardest of each image. "batch": the N * b hardest of the N images of this process.
    budget: str = "image"
    # The loss to rank by: "cls+box" (the paper), or only one of its two terms.
    rank_by: str = "cls+box"
    # Precision of the head in the read-only pass, independent of that of training. "auto": float16 on CUDA,
    # float32 elsewhere; bfloat16 selects too many other RoIs (benchmarks/README.md). Pooling and losses are
    # not affected.
    readonly_dtype: str = "auto"
    # Number of RoIs per forward of the read-only pass, which bounds its memory; 0: chosen. It is halved,
    # down to 16, where CUDA runs out of memory.
    readonly_chunk: int = 0
    # Whether dropout is active in the read-only pass, as in the authors' released nets.
    readonly_dropout: bool = False
    # Size in MiB that the log of the mined RoIs, OUTPUT_DIR/mined, may have; 0, or if NAIVE: there is none.
    log_mib: int = 64
    # True: all RoIs go through the trainable head and the losses of the easy ones are set to zero: the same
    # gradient at the cost of more time and memory. For comparison; not for cascades.
    naive: bool = False
    # Number of iterations between two drawings of the hardest RoIs of some training images, for TensorBoard,
    # whether they are mined or not. 0: never.
    vis_period: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(0, "vis_period")
        self.require_fraction("nms_thresh")
        self.require_one_of("budget", BUDGETS)
        self.require_one_of("rank_by", RANKINGS)
        self.require_one_of("readonly_dtype", READONLY_DTYPES)
        self.require_at_least(0, "readonly_chunk")
        self.require_at_least(0, "log_mib")


@dataclass(frozen=True)
class AnchorOHEMOptions(_MiningOptions):
    """How the anchors of a dense detector are mined."""

    # None: mine if the model that the config names can mine anchors. True: as None, and an error for a model
    # that cannot. False: a model that can mine trains as its Detectron2 parent does.
    enabled: bool | None = None
    # Budget: the number of anchors of one image that are trained on, >= 1.
    batch_size_per_image: int = 256
    # IoU in [0, 1] above which the anchor of lower loss is dropped as a duplicate; 1.0: no NMS.
    nms_thresh: float = 0.7
    # Number of anchors of one image, those of highest loss, that go into NMS, >= BATCH_SIZE_PER_IMAGE; bounds
    # its time.
    pre_nms_topk: int = 6000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_fraction("nms_thresh")
        self.require_at_least(1, "batch_size_per_image")
        budget = self.batch_size_per_image
        valid = f"an integer >= BATCH_SIZE_PER_IMAGE, which is {budget}"
        self.require(self.pre_nms_topk >= budget, "pre_nms_topk", valid)


@dataclass(frozen=True)
class OHEMRPNOptions(AnchorOHEMOptions):
    """How the anchors of a region proposal network are mined."""

    section: ClassVar[str] = "MODEL.OHEM.RPN"


@dataclass(frozen=True)
class OHEMRetinaNetOptions(AnchorOHEMOptions):
    """How the anchors of a RetinaNet are mined."""

    section: ClassVar[str] = "MODEL.OHEM.RETINANET"


@dataclass(frozen=True)
class IgnoreRegionsOptions(Options):
    """Regions that are neither object nor background, such as COCO's crowds."""

    section: ClassVar[str] = "MODEL.IGNORE_REGIONS"

    # Whether RoIs and anchors that lie inside an ignore region and match no object are left out of training,
    # mined or not; an error for heads, proposal networks and detectors that cannot mine.
    enabled: bool = False
    # The share of its area in [0, 1] above which a box lies inside a region: the largest over single regions.
    thresh: float = 0.7

    def __post_init__(self) -> None:
        self.require_fraction("thresh")


@dataclass(frozen=True)
class ClsLossOptions(Options):
    """The classification loss of RoI heads that can mine, for training on all RoIs.

    See configs/sampling/focal.yaml and configs/sampling/sampling_free.yaml.
    """

    section: ClassVar[str] = "MODEL.CLS_LOSS"

    # "cross_entropy"; "focal" loss; "guided": cross-entropy scaled to twice the box loss.
    name: str = "cross_entropy"
    # The probability of foreground, in (0, 1), that the classifier's initial bias stands for; 0: no bias, all
    # classes are equally likely.
    prior: float = 0.0
    # Of focal loss, >= 0: the larger, the less the RoIs count that are classified well.
    focal_gamma: float = 2.0
    # Of focal loss, in [0, 1]: weight of foreground; that of background is 1 - FOCAL_ALPHA.
    focal_alpha: float = 0.25

    def __post_init__(self) -> None:
        self.require_one_of("name", CLS_LOSSES)
        self.require(0 <= self.prior < 1, "prior", "a number >= 0 and < 1")
        self.require(self.focal_gamma >= 0, "focal_gamma", "a number >= 0")
        self.require_fraction("focal_alpha")

    @property
    def is_plain(self) -> bool:
        """Whether the classifier is that of Detectron2."""
        return self.name == "cross_entropy" and self.prior == 0


@dataclass(frozen=True)
class TorchvisionOptions(Options):
    """Backbones of torchvision: `TorchvisionBackbone` and `build_torchvision_fpn_backbone`.

    The latter reads ``MODEL.FPN`` too.
    """

    section: ClassVar[str] = "MODEL.TORCHVISION"

    # A classification network of torchvision.models.
    name: str = "resnet50"
    # Its modules or graph nodes whose outputs are the features, in the order of the forward pass.
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")
    # Stride of each of them in pixels, a power of two.
    strides: tuple[int, ...] = (4, 8, 16, 32)
    # Modules (with all their submodules) and parameters that are not trained. MODEL.BACKBONE.FREEZE_AT is not
    # read.
    freeze: tuple[str, ...] = ()
    # "FrozenBN": batch normalisation with the statistics of the checkpoint. "BN": with those of the batch.
    norm: str = "FrozenBN"

    def __post_init__(self) -> None:
        self.require_one_of("norm", ("BN", "FrozenBN"))
        valid = f"one stride for each of LAYERS {tuple(self.layers)}"
        self.require(len(self.strides) == len(self.layers), "strides", valid)


@dataclass(frozen=True)
class DatasetOptions(Options):
    """Data sets and their proposals."""

    section: ClassVar[str] = "DATASETS"
    is_own: ClassVar[bool] = False

    # YAML catalogues of data sets to register (see datasets/README.md); paths relative to the working folder.
    catalog: tuple[str, ...] = ()
    # Training images that are missing from the proposal file. "error": stop and name some of them.
    # "ground_truth": train on their annotated boxes only. In testing it is always an error.
    proposals_missing: str = "error"
    # Training images that cannot be read. "error": stop and name the file. "skip": name each in the log and
    # train on another one, drawn by the seed, in its place. In testing it is always an error.
    unreadable_images: str = "error"
    # Objects marked as difficult in training sets of VOC layout: "keep" (Detectron2), "drop" (the authors) or
    # "ignore" (they become ignore regions). Evaluation is not affected.
    voc_difficult: str = "keep"

    def __post_init__(self) -> None:
        self.require(all(isinstance(path, str) for path in self.catalog), "catalog", "paths")
        self.require_one_of("proposals_missing", ("error", "ground_truth"))
        self.require_one_of("unreadable_images", ("error", "skip"))
        self.require_one_of("voc_difficult", VOC_DIFFICULT)


@dataclass(frozen=True)
class DataLoaderOptions(Options):
    """Loading of images."""

    section: ClassVar[str] = "DATALOADER"
    is_own: ClassVar[bool] = False

    # Seconds after which a training or test whose loader workers (NUM_WORKERS) send no image ends with an
    # error, since one of them may be stopped or wait for a file system for ever; 0: never.
    timeout: int = 600

    def __post_init__(self) -> None:
        self.require_at_least(0, "timeout")


@dataclass(frozen=True)
class SolverOptions(Options):
    """The solver."""

    section: ClassVar[str] = "SOLVER"
    is_own: ClassVar[bool] = False

    # Number of batches of SOLVER.IMS_PER_BATCH images per iteration, >= 1; their gradients are averaged.
    accumulate: int = 1

    def __post_init__(self) -> None:
        self.require_at_least(1, "accumulate")


@dataclass(frozen=True)
class TestOptions(Options):
    """Evaluation."""

    section: ClassVar[str] = "TEST"
    is_own: ClassVar[bool] = False
    __test__: ClassVar[bool] = False  # not a test class, whatever pytest infers from the name

    # Evaluators of every test set: any of "voc07" (AP at 11 recalls), "voc12" (area under the curve) and
    # "coco". Empty: chosen by the type of the data set.
    evaluators: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = ("voc07", "voc12", "coco")
        self.require(
            set(self.evaluators) <= set(known), "evaluators", "any of " + ", ".join(map(repr, known))
        )


@dataclass(frozen=True)
class RoILossOptions(Options):
    """Mean loss over all candidate RoIs of some training images (the paper, figure 3), mined or not."""

    section: ClassVar[str] = "TEST.ROI_LOSS"

    # Number of iterations between two measurements; the last iteration is always measured. 0: never.
    period: int = 0
    # Number of images, evenly spread over all training sets, without augmentation.
    num_images: int = 64

    def __post_init__(self) -> None:
        self.require_at_least(0, "period")
        self.require_at_least(1, "num_images")


@dataclass(frozen=True)
class AugOptions(Options):
    """Testing at many scales."""

    section: ClassVar[str] = "TEST.AUG"
    is_own: ClassVar[bool] = False

    # How the scales of TEST.AUG are combined. "detections": NMS at each scale, then on what is left of all
    # (Detectron2). "candidates": one NMS on the boxes of all scales (Detectron's UNION). "mean": scores and
    # boxes of each proposal are averaged over the scales (Detectron's AVG). "max": a class of a proposal has
    # the score and the box of the scale that scores it highest. "proposals": an older name of "mean".
    combine: str = "detections"

    def __post_init__(self) -> None:
        self.require_one_of("combine", ("detections", "candidates", "mean", "max", "proposals"))


@dataclass(frozen=True)
class MultiScaleOptions(AugOptions):
    """``TEST.AUG`` as a whole: `AugOptions` and what Detectron2 has there."""

    # Whether images are tested at many scales.
    enabled: bool = False
    # Length of the shorter side at each scale, in pixels.
    min_sizes: tuple[int, ...] = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
    # Length of the longer side at most, in pixels.
    max_size: int = 4000
    # Whether each scale is tested flipped as well.
    flip: bool = True
    # The scale next to it is the reference, see `RCNNWithTTA`: that of plain testing, INPUT.MIN_SIZE_TEST.
    reference_size: int = 800

    def __post_init__(self) -> None:
        super().__post_init__()
        is_valid = len(self.min_sizes) > 0 and all(size > 0 for size in self.min_sizes)
        self.require(is_valid or not self.enabled, "min_sizes", "one size or more, in pixels")

    @classmethod
    def from_config(cls, cfg: CN) -> "MultiScaleOptions":
        """Read and check the section; the reference is ``INPUT.MIN_SIZE_TEST``."""
        return replace(super().from_config(cfg), reference_size=cfg.INPUT.MIN_SIZE_TEST)


@dataclass(frozen=True)
class BoxVotingOptions(Options):
    """Iterative box regression and box voting (Gidaris and Komodakis, ICCV 2015): the paper's +B."""

    section: ClassVar[str] = "TEST.BOX_VOTING"

    # Whether box regression is repeated and boxes vote.
    enabled: bool = False
    # Number of passes through the head, >= 1: the first scores the proposals, each later one the regressed
    # boxes of the pass before, one per RoI: that of its best class.
    rounds: int = 2
    # IoU in [0, 1] above which NMS on the boxes of all rounds drops the one of lower score; replaces
    # MODEL.ROI_HEADS.NMS_THRESH_TEST.
    nms_thresh: float = 0.3
    # IoU in [0, 1] with a box kept by NMS, from which on a box of the same class votes on its coordinates.
    vote_thresh: float = 0.5
    # Which boxes vote: those of "all" rounds, or of the "last".
    voters: str = "all"

    def __post_init__(self) -> None:
        self.require_at_least(1, "rounds")
        self.require_fraction("nms_thresh")
        self.require_fraction("vote_thresh")
        self.require_one_of("voters", ("all", "last"))


@dataclass(frozen=True)
class SoftNMSOptions(Options):
    """Gaussian soft-NMS (Bodla et al., ICCV 2017) in place of NMS; goes with voting and many scales."""

    section: ClassVar[str] = "TEST.SOFT_NMS"

    # Whether overlapping boxes get lower scores instead of being dropped.
    enabled: bool = False
    # > 0: the score of a box is multiplied by exp(-IoU^2 / SIGMA) for each better box of its class.
    sigma: float = 0.5

    def __post_init__(self) -> None:
        self.require(self.sigma > 0, "sigma", "a number > 0")


SECTIONS: tuple[type[Options], ...] = (
    OHEMOptions,
    OHEMRPNOptions,
    OHEMRetinaNetOptions,
    IgnoreRegionsOptions,
    ClsLossOptions,
    TorchvisionOptions,
    DatasetOptions,
    DataLoaderOptions,
    SolverOptions,
    TestOptions,
    RoILossOptions,
    AugOptions,
    BoxVotingOptions,
    SoftNMSOptions,
)


def add_ohem_config(cfg: CN) -> None:
    """Add the keys of this project, with their defaults, to a Detectron2 config (in place)."""
    for options in SECTIONS:
        options.add_to(cfg)


def check_values(cfg: CN) -> None:
    """Check all keys of this project.

    Raises:
        KeyError: an unknown key, or a section that is missing.
        ValueError: a value out of its range; names the key, the value and the valid choices.
    """
    for options in SECTIONS:
        options.from_config(cfg)
