"""Citations: the papers that a run uses."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from amodal.checkpoint import TrainedModel
from amodal.errors import UnknownNameError

__all__ = ["bibliography", "bibtex", "references_of"]


def bibliography() -> dict[str, str]:
    """All entries of the bibliography, BibTeX by key.

    Example:
        >>> bibliography()["rubin1976inference"].splitlines()[0]
        '@article{rubin1976inference,'
    """
    text = resources.files("amodal").joinpath("references.bib").read_text(encoding="utf-8")
    entries = re.split(r"(?m)^(?=@)", text)
    return {match[1]: entry.strip() for entry in entries if (match := re.match(r"@\w+\{([^,\s]+),", entry))}


def references_of(model: TrainedModel) -> tuple[str, ...]:
    """Keys of the papers behind a trained model: its method's, its encoders', and the data's.

    Args:
        model: A trained model.

    Returns:
        Keys in that order, each once.
    """
    keys = list(model.method.references)
    for module in model.method.modules():
        if module is not model.method:
            keys += getattr(type(module), "references", ())
    cohort = model.experiment.get("data", {}).get("cohort", "")
    keys += _COHORTS.get(cohort, ())
    return tuple(dict.fromkeys(keys))


def bibtex(run: str | Path) -> str:
    """BibTeX of the papers that a run uses.

    Args:
        run: A run's folder.

    Returns:
        Entries, separated by blank lines.

    Raises:
        UnknownNameError: If a paper is not in the bibliography.
    """
    known = bibliography()
    entries = []
    for key in references_of(TrainedModel.load(run)):
        if key not in known:
            raise UnknownNameError("reference", key, known)
        entries.append(known[key])
    return "\n\n".join(entries)


_COHORTS = {"cinc2012": ("silva2012cinc", "goldberger2000physionet"), "digits": ("pedregosa2011scikit",)}
