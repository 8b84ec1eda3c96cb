r"""Copulas: the public face.

A copula joins uniform margins into a joint law. All of them have ``log_density``, ``log_cdf``, ``conditional_cdf`` and
its inverse, ``sample``, ``sample_given`` (the absent margins given the observed ones), ``kendall_tau``, ``fit`` and
``from_kendall_tau``; all take any number of margins, and ``observed`` where margins are absent.

.. list-table::
   :header-rows: 1

   * - family
     - parameter
     - Kendall's tau
     - tails
   * - :class:`Clayton`
     - :math:`\theta > 0`
     - :math:`\theta/(\theta+2)`
     - lower :math:`2^{-1/\theta}`
   * - :class:`Gumbel`
     - :math:`\theta \ge 1`
     - :math:`1 - 1/\theta`
     - upper :math:`2 - 2^{1/\theta}`
   * - :class:`Frank`
     - :math:`\theta > 0` (a pair: any)
     - :math:`1 - \frac4\theta(1 - D_1(\theta))`
     - none
   * - :class:`Joe`
     - :math:`\theta \ge 1`
     - :func:`~amodal.distributions.copula.archimedean_tau.joe_tau`
     - upper :math:`2 - 2^{1/\theta}`
   * - :class:`GaussianCopula`
     - correlation R
     - :math:`\frac2\pi\arcsin R_{ij}`
     - none
   * - :class:`StudentTCopula`
     - R and :math:`\nu`
     - :math:`\frac2\pi\arcsin R_{ij}`
     - both

An Archimedean copula forces the same dependence on every pair; where pairs differ, take an elliptical one.
"""

from __future__ import annotations

from amodal.distributions.copula.abstract import Copula
from amodal.distributions.copula.archimedean import Archimedean
from amodal.distributions.copula.archimedean_families import Clayton, Frank, Gumbel, Joe
from amodal.distributions.copula.elliptical import Elliptical
from amodal.distributions.copula.elliptical_families import GaussianCopula, StudentTCopula
from amodal.distributions.copula.fit import maximise_likelihood, parameter_intervals, select_family
from amodal.distributions.copula.rotation import Independence, Rotated
from amodal.errors import UnknownNameError

__all__ = [
    "FAMILIES",
    "Archimedean",
    "Clayton",
    "Copula",
    "Elliptical",
    "Frank",
    "GaussianCopula",
    "Gumbel",
    "Independence",
    "Joe",
    "Rotated",
    "StudentTCopula",
    "copula_family",
    "maximise_likelihood",
    "parameter_intervals",
    "select_family",
]

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


def copula_family(name: str) -> type[Copula]:
    """The class of a family by its name.

    Args:
        name: One of :data:`FAMILIES`; case does not matter.

    Raises:
        UnknownNameError: For any other name; says which is nearest.

    Example:
        >>> copula_family("gumbel").from_kendall_tau(0.5, dim=3)
        Gumbel(theta=2, dim=3)
    """
    family = FAMILIES.get(name.lower()) if isinstance(name, str) else None
    if family is None:
        raise UnknownNameError("copula family", name, FAMILIES)
    return family
