"""The benchmark's 25 phenotypes: groups of discharge diagnoses, packaged, or read from its published resource file."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amodal.data.sources.mimic.query import columns_of, open_tables
from amodal.data.sources.mimic.stays import DATABASES, Database
from amodal.errors import DataError

__all__ = ["Phenotype", "diagnosis_tables", "packaged_phenotypes", "read_definitions", "read_diagnoses"]


class Phenotype(NamedTuple):
    """A group of diagnoses.

    Attributes:
        name: Its name, as in the Clinical Classifications Software.
        kind: acute, chronic or mixed; "" where the file does not say.
        icd9: Codes without dots.
        icd10: Beginnings of codes without dots.
    """

    name: str
    kind: str
    icd9: frozenset[str]
    icd10: tuple[str, ...]


def packaged_phenotypes() -> tuple[Phenotype, ...]:
    """The 25 phenotypes as they come with amodal, by name.

    Example:
        >>> found = packaged_phenotypes()
        >>> len(found), found[0].name, sorted(found[0].icd9)[:2], found[0].icd10
        (25, 'Acute and unspecified renal failure', ['5845', '5846'], ('N17', 'N19'))
    """
    text = (files("amodal.data.sources.mimic") / "phenotypes.json").read_text(encoding="utf-8")
    return tuple(
        Phenotype(entry["name"], entry["type"], frozenset(entry["icd9"].split()), tuple(entry["icd10"].split()))
        for entry in json.loads(text)["phenotypes"]
    )


def read_definitions(file: str | Path) -> tuple[Phenotype, ...]:
    """The groups of the benchmark's published resource file that it uses, by name.

    Args:
        file: `hcup_ccs_2015_definitions.yaml`, or a file of its form: for each group `use_in_benchmark` and `codes`,
            which may be of ICD-9 and ICD-10.

    Raises:
        DataError: If it is missing or has another form.
    """
    import yaml

    try:
        groups = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        chosen = {str(name): group for name, group in groups.items() if group["use_in_benchmark"]}
        found = [
            Phenotype(name, str(group.get("type", "")), codes, tuple(sorted(codes)))
            for name, group in sorted(chosen.items())
            for codes in [frozenset(str(code) for code in group["codes"])]
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the definitions of phenotypes cannot be read: {file}") from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} has no definitions of phenotypes", expected="groups, each with use_in_benchmark and codes"
        ) from error
    if not found:
        raise DataError(f"no group in {file} is used in the benchmark")
    return tuple(found)


def diagnosis_tables(database: Database, *, only_described: bool) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The tables of diagnoses by the name of their view, and the columns that they must have; see `read_diagnoses`."""
    if database == "mimic4":
        return {"DIAGNOSES": "hosp/diagnoses_icd"}, {"DIAGNOSES": ("hadm_id", "icd_code", "icd_version")}
    tables = {"DIAGNOSES": "DIAGNOSES_ICD"}
    columns: dict[str, tuple[str, ...]] = {"DIAGNOSES": ("hadm_id", "icd9_code")}
    if only_described:
        tables["DESCRIBED"], columns["DESCRIBED"] = "D_ICD_DIAGNOSES", ("icd9_code",)
    return tables, columns


def read_diagnoses(
    source: Path,
    database: Database,
    admission: np.ndarray,
    phenotypes: tuple[Phenotype, ...],
    *,
    only_described: bool = True,
) -> np.ndarray:
    """The phenotypes of admissions.

    Args:
        source: Folder of the tables.
        database: Which.
        admission: Numbers of the admissions, of shape (N,), each once.
        phenotypes: The groups.
        only_described: Of MIMIC-III leave out codes that its table D_ICD_DIAGNOSES does not have, as upstream does:
            old ones, among them 585 (chronic kidney disease) and 2765 (fluid disorders).

    Returns:
        bool, of shape (N, K).

    Raises:
        DataError: If the table is missing or cannot be read; the message names it.
    """
    tables, columns = diagnosis_tables(database, only_described=only_described)
    code, version = ("icd9_code", "'9'") if database == "mimic3" else ("icd_code", "icd_version")
    described = f"AND TRIM({code}) IN (SELECT TRIM({code}) FROM DESCRIBED)" if "DESCRIBED" in tables else ""
    with open_tables(source, tables, database=DATABASES[database], columns=columns) as connection:
        frame = columns_of(
            connection,
            f"SELECT DISTINCT CAST(hadm_id AS BIGINT) AS hadm, TRIM({version}) || ' ' || TRIM({code}) AS code "
            f"FROM DIAGNOSES WHERE {code} <> '' {described}",
        )
    codes, inverse = np.unique(frame["code"].astype(str), return_inverse=True)
    member = np.array([[test(code) for test in _tests(phenotypes)] for code in codes.tolist()], dtype=bool)
    member = member.reshape(-1, len(phenotypes))
    order = np.argsort(admission)
    place = np.searchsorted(admission[order], frame["hadm"]).clip(max=max(0, len(admission) - 1))
    labels = np.zeros((len(admission), len(phenotypes)), bool)
    if len(admission) and len(codes):
        known = admission[order][place] == frame["hadm"]
        np.logical_or.at(labels, order[place[known]], member[inverse[known]])
    return labels


def _tests(phenotypes: tuple[Phenotype, ...]) -> list[Callable[[str], bool]]:
    """For each phenotype whether "9 4280" or "10 I509" is of it."""

    def test(phenotype: Phenotype) -> Callable[[str], bool]:
        return lambda code: (
            code[2:] in phenotype.icd9 if code.startswith("9 ") else code[3:].startswith(phenotype.icd10)
        )

    return [test(phenotype) for phenotype in phenotypes]
