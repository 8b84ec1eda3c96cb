"""Methods: one paper, one file; the registry names them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amodal.errors import UnknownNameError
from amodal.method import Method
from amodal.methods.boosting import Boosting
from amodal.methods.cepa import CEPA
from amodal.methods.cm2 import CM2
from amodal.methods.cmmd import CMMD
from amodal.methods.daft import DAFT
from amodal.methods.dicmor import DiCMoR
from amodal.methods.drfuse import DrFuse
from amodal.methods.drim import DRIM
from amodal.methods.ensemble import Ensemble, member_options
from amodal.methods.fills import Fills
from amodal.methods.fusemoe import FuseMoE
from amodal.methods.fusion import JointFusion
from amodal.methods.i2m2 import I2M2
from amodal.methods.interleaved import Interleaved
from amodal.methods.late_fusion import LateFusion
from amodal.methods.lsmt import LSMT
from amodal.methods.lvae import LVAE
from amodal.methods.m3care import M3Care
from amodal.methods.m3jepa import M3JEPA
from amodal.methods.medfuse import MedFuse
from amodal.methods.mmtm import MMTM
from amodal.methods.mmvae import MMVAE
from amodal.methods.modality_dropout import ModalityDropout
from amodal.methods.muse import MUSE
from amodal.methods.mvae import MVAE
from amodal.methods.per_pattern import PerPattern
from amodal.methods.primo import PRIMO
from amodal.methods.robult import Robult
from amodal.methods.shaspec import ShaSpec
from amodal.methods.simmlm import SimMLM
from amodal.methods.smil import SMIL
from amodal.methods.unified import Unified
from amodal.methods.unimodal import Unimodal
from amodal.options import resolve_options

__all__ = ["METHODS", "method_options"]

METHODS: dict[str, type[Method]] = {
    "unimodal": Unimodal,
    "fusion": JointFusion,
    "modality_dropout": ModalityDropout,
    "late_fusion": LateFusion,
    "per_pattern": PerPattern,
    "boosting": Boosting,
    "ensemble": Ensemble,
    "primo": PRIMO,
    "fills": Fills,
    "cepa": CEPA,
    "i2m2": I2M2,
    "mvae": MVAE,
    "mmvae": MMVAE,
    "cmmd": CMMD,
    "lvae": LVAE,
    "cm2": CM2,
    "dicmor": DiCMoR,
    "mmtm": MMTM,
    "daft": DAFT,
    "unified": Unified,
    "medfuse": MedFuse,
    "drfuse": DrFuse,
    "lsmt": LSMT,
    "interleaved": Interleaved,
    "fusemoe": FuseMoE,
    "simmlm": SimMLM,
    "robult": Robult,
    "m3jepa": M3JEPA,
    "smil": SMIL,
    "muse": MUSE,
    "shaspec": ShaSpec,
    "drim": DRIM,
    "m3care": M3Care,
}

Ensemble.known = METHODS


def method_options(name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All options of a method: those given, checked; those of the preset they name; and the defaults.

    Args:
        name: A name in `METHODS`.
        options: Its options, "preset" among them.

    Returns:
        What the method is built with; see `amodal.options.resolve_options`.

    Raises:
        UnknownNameError: If the method, the preset, an option, or one of an option's known values is not known.
        ConfigurationError: If a value has another type than its annotation says, or is out of range.

    Example:
        >>> method_options("cepa", {"preset": "paper", "layers": 3})["dropout"]
        0.3
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    resolved = resolve_options(METHODS[name], options or {}, owner=name, outside=("schema", "encoders"))
    if METHODS[name] is Ensemble:  # its members' options too, so that a later change of a default does not change a run
        found = (member_options(METHODS, member) for member in resolved["members"])
        resolved["members"] = [{"name": member, "encoders": kinds, **options} for member, kinds, options in found]
    return resolved
