r"""Copulas: families, fits, choice of a family, measures of dependence.

A copula joins uniform margins into a joint law. All of them have ``log_density``, ``log_cdf``, ``conditional_cdf`` and
its inverse, ``sample``, ``sample_given`` (the absent margins given the observed ones), ``kendall_tau``,
``spearman_rho``, ``tail_dependence``, ``fit``, ``aic``, ``bic`` and ``from_kendall_tau``; all take any number of
margins, and ``observed`` where margins are absent. ``docs/copulas.md`` shows how they are used.

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
     - :func:`~amodal.distributions.copula.joe.joe_tau`
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

from amodal.distributions.copula.abstract import Copula, TailDependence
from amodal.distributions.copula.archimedean import Archimedean
from amodal.distributions.copula.clayton import Clayton
from amodal.distributions.copula.elliptical import Elliptical
from amodal.distributions.copula.families import FAMILIES, copula_family
from amodal.distributions.copula.fit import IndependenceTest, independence_test, maximise_likelihood
from amodal.distributions.copula.frank import Frank
from amodal.distributions.copula.gaussian import GaussianCopula
from amodal.distributions.copula.gumbel import Gumbel
from amodal.distributions.copula.joe import Joe
from amodal.distributions.copula.points import pseudo_observations
from amodal.distributions.copula.rotation import Independence, Rotated
from amodal.distributions.copula.selection import FamilySelection, parameter_intervals, select_family
from amodal.distributions.copula.student_t import StudentTCopula

__all__ = [
    "FAMILIES",
    "Archimedean",
    "Clayton",
    "Copula",
    "Elliptical",
    "FamilySelection",
    "Frank",
    "GaussianCopula",
    "Gumbel",
    "Independence",
    "IndependenceTest",
    "Joe",
    "Rotated",
    "StudentTCopula",
    "TailDependence",
    "copula_family",
    "independence_test",
    "maximise_likelihood",
    "parameter_intervals",
    "pseudo_observations",
    "select_family",
]
