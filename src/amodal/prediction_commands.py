"""The commands that use a run on new cases: `amodal predict` and `amodal serve`.

As in `amodal.cli`, nothing heavy is imported at the top, and there are no imports for type checkers only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from amodal.errors import ConfigurationError

__all__ = ["predict_command", "serve_command"]


def predict_command(
    run: Path,
    *,
    out: Path,
    data: str = "",
    manifest: Path | None = None,
    root: Path | None = None,
    split: str = "",
    on_empty: Literal["warn", "silent", "error"] = "warn",
    batch_size: int = 1024,
    device: str = "cpu",
) -> None:
    """Predict cases, whatever they lack, into a CSV or Parquet file: those of a cohort, or of a new table.

    Args:
        run: Folder of the run.
        out: File to write, .csv or .parquet.
        data: A cohort's folder or name.
        manifest: Instead, a table of new cases (CSV, Parquet, Excel) with any columns of the one trained on.
        root: Data folder that all files of the manifest must lie in; null takes the manifest's.
        split: Split of the cohort to predict; "" takes all cases.
        on_empty: For cases of which nothing is observed: warn or silent (predict the training prior), or error.
        batch_size: Cases predicted at a time.
        device: cpu or cuda.
    """
    from amodal.files import replace_file

    if out.suffix not in (".csv", ".parquet"):
        raise ConfigurationError("the output file has an unknown ending", expected=".csv or .parquet", got=out.name)
    if bool(data) == (manifest is not None):
        raise ConfigurationError(
            "cases to predict are either a cohort or a table",
            expected="--data or --manifest",
            got="both" if data else "neither",
        )
    from amodal.checkpoint import TrainedModel

    model = TrainedModel.load(run, device=device)
    out.parent.mkdir(parents=True, exist_ok=True)
    if manifest is None:
        from amodal.data import load_cohort
        from amodal.prediction_files import predict_to_file
        from amodal.progress import progress_bar

        cohort = load_cohort(data).split(split) if split else load_cohort(data)
        with progress_bar("predicting") as tell:
            predict_to_file(model, cohort, out, batch_size=batch_size, on_empty=on_empty, tell=tell)
        print(f"{len(cohort)} predictions are in {out}")
        return
    frame = _predicted_table(model, manifest, root, batch_size)
    replace_file(out, lambda path: frame.to_csv(path, index=False) if out.suffix == ".csv" else frame.to_parquet(path))
    print(f"{len(frame)} predictions are in {out}")


def _predicted_table(model: Any, manifest: Path, root: Path | None, batch_size: int) -> Any:
    from amodal.data.table import open_table, table_source
    from amodal.prediction import predict_table

    rules = (table_source(model.experiment) or {}).get("table", {})
    table = open_table(manifest, rules.get("encoding", ""), rules.get("sheet", ""))
    frame = predict_table(model, table, root=root or manifest.parent, batch_size=batch_size)
    for line in frame.attrs["taken"]:
        print(f"read: {line}")
    told = frame[frame["notes"] != ""]
    for row, notes in list(zip(told["id"], told["notes"]))[:10]:
        print(f"  {row}: {notes}")
    if len(told):
        print(f"{len(told)} of {len(frame)} rows have notes, in the column `notes`")
    return frame


def serve_command(
    run: Path,
    *,
    data: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    hosts: list[str] | None = None,
    max_megabytes: int = 32,
    device: str = "cpu",
) -> None:
    """Answer requests for predictions over HTTP, with a form to try one case; needs the extra `serve`.

    Args:
        run: Folder of the run; it must have been trained on a table.
        data: The cohort that it was trained on, whose training cases say what absent modalities could still change;
            "": only methods that draw completions say so.
        host: Address to listen at; the default is reachable from this machine only.
        port: Port to listen at.
        hosts: Names under which a proxy or other machines reach it; addresses and localhost are always answered.
        max_megabytes: Largest body of a request.
        device: cpu or cuda.
    """
    try:
        from amodal.serve.app import run_server
    except ImportError as error:
        raise ConfigurationError(
            f"serving needs a package that is not installed: {error.name}", hint="pip install 'amodal[serve]'."
        ) from error
    run_server(run, host=host, port=port, hosts=hosts or (), most_megabytes=max_megabytes, device=device, data=data)
