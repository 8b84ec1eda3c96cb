"""The copula families by name."""

from __future__ import annotations

from amodal.distributions.copula.abstract import Copula
from amodal.distributions.copula.clayton import Clayton
from amodal.distributions.copula.frank import Frank
from amodal.distributions.copula.gaussian import GaussianCopula
from amodal.distributions.copula.gumbel import Gumbel
from amodal.distributions.copula.joe import Joe
from amodal.distributions.copula.rotation import Independence
from amodal.distributions.copula.student_t import StudentTCopula
from amodal.errors import UnknownNameError

__all__ = ["FAMILIES", "copula_family"]

FAMILIES: dict[str, type[Copula]] = {
    "independence": Independence,
    "clayton": Clayton,
    "gumbel": Gumbel,
    "frank": Frank,
    "joe": Joe,
    "gaussian": GaussianCopula,
    "student_t": StudentTCopula,
}
"""The families by name."""

_OTHER_NAMES = {"t": "student_t", "student": "student_t", "normal": "gaussian", "indep": "independence"}


def copula_family(name: str) -> type[Copula]:
    """The class of a family by its name.

    Args:
        name: One of :data:`FAMILIES`, or "t", "student", "normal", "indep"; case does not matter.

    Raises:
        UnknownNameError: For any other name; says which is nearest.

    Example:
        >>> copula_family("gumbel").from_kendall_tau(0.5, dim=3)
        Gumbel(theta=2, dim=3)
    """
    lower = name.lower() if isinstance(name, str) else ""
    family = FAMILIES.get(_OTHER_NAMES.get(lower, lower))
    if family is None:
        raise UnknownNameError("copula family", name, FAMILIES)
    return family
