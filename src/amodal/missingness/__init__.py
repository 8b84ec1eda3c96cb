"""Missingness mechanisms: MCAR, MAR, MNAR, fixed counts and patterns, with what they realised."""

from amodal.missingness.mechanism import Mechanism
from amodal.missingness.mechanisms import (
    MAR,
    MCAR,
    MECHANISMS,
    MNAR,
    BalancedCounts,
    FixedCount,
    Natural,
    Pattern,
    mechanism_from_json,
)
from amodal.missingness.patterns import all_patterns, pattern_codes, pattern_label
from amodal.missingness.presence import Presence, realise

__all__ = [
    "MAR",
    "MCAR",
    "MECHANISMS",
    "MNAR",
    "BalancedCounts",
    "FixedCount",
    "Mechanism",
    "Natural",
    "Pattern",
    "Presence",
    "all_patterns",
    "mechanism_from_json",
    "pattern_codes",
    "pattern_label",
    "realise",
]
