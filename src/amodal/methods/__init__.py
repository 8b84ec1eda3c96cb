"""Methods: one paper, one file; the registry names them all."""

from __future__ import annotations

from amodal.method import Method
from amodal.methods.boosting import Boosting
from amodal.methods.cepa import CEPA
from amodal.methods.cm2 import CM2
from amodal.methods.cmmd import CMMD
from amodal.methods.fills import Fills
from amodal.methods.fusion import JointFusion
from amodal.methods.i2m2 import I2M2
from amodal.methods.late_fusion import LateFusion
from amodal.methods.lvae import LVAE
from amodal.methods.mmvae import MMVAE
from amodal.methods.modality_dropout import ModalityDropout
from amodal.methods.mvae import MVAE
from amodal.methods.per_pattern import PerPattern
from amodal.methods.primo import PRIMO
from amodal.methods.unimodal import Unimodal

__all__ = ["METHODS"]

METHODS: dict[str, type[Method]] = {
    "unimodal": Unimodal,
    "fusion": JointFusion,
    "modality_dropout": ModalityDropout,
    "late_fusion": LateFusion,
    "per_pattern": PerPattern,
    "boosting": Boosting,
    "primo": PRIMO,
    "fills": Fills,
    "cepa": CEPA,
    "i2m2": I2M2,
    "mvae": MVAE,
    "mmvae": MMVAE,
    "cmmd": CMMD,
    "lvae": LVAE,
    "cm2": CM2,
}
