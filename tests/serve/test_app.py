"""The web service: any subset of modalities, errors that name the field, and nothing that makes it fall over."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import wavfile

import amodal
from amodal.cli import main
from amodal.data.table import open_table, prepare
from amodal.prediction import predict_table
from amodal.schema import Task

pytest.importorskip("fastapi")
import uvicorn
from fastapi.testclient import TestClient

from amodal.data.table.column import Column
from amodal.serve.app import make_app
from amodal.serve.case import _label
from amodal.serve.limit import SizeLimit
from amodal.serve.service import Service

N = 40
SCHEMA = {
    "name": "made <b>up</b>",
    "id": "id",
    "task": {"kind": "binary", "column": "y", "classes": ["no", "yes"]},
    "split": {"column": "fold"},
    "modalities": {
        "clinical": {
            "kind": "tabular",
            "columns": {
                "age": {"units": "years", "min": 0, "max": 120},
                "sex": {"type": "category", "categories": ["F", "M"]},
            },
        },
        "note": {"kind": "text", "column": "note"},
        "scan": {"kind": "image", "column": "scan", "size": 8},
        "voice": {"kind": "audio", "column": "voice", "rate": 4000, "seconds": 0.5, "bands": 8},
        "vector": {"kind": "embedding", "column": "vector"},
        "vitals": {
            "kind": "events", "file": "events.csv", "id": "id", "time": "hour", "variable": "name", "value": "value",
            "stop": 4, "step": 1, "variables": {"HR": {"units": "1/min"}, "Temp": {"units": "degC"}},
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    rng = np.random.default_rng(0)
    rows, events = [], []
    for i in range(N):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / f"{i}.png")
        wavfile.write(folder / f"{i}.wav", 4000, (rng.normal(size=2000) * 3000).astype(np.int16))
        np.save(folder / f"{i}.npy", rng.normal(size=3).astype(np.float32))
        rows.append({"id": f"c{i}", "y": "yes" if i % 2 else "no", "fold": ["train", "valid"][i >= 30], "age": 30 + i,
                     "sex": "FM"[i % 2], "note": f"note {i}", "scan": f"{i}.png", "voice": f"{i}.wav",
                     "vector": f"{i}.npy"})  # fmt: skip
        events += [[f"c{i}", hour, "HR", 60 + i] for hour in range(4)]
        events += [[f"c{i}", 1, "Temp", 37]]
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)
    pd.DataFrame(events, columns=["id", "hour", "name", "value"]).to_csv(folder / "events.csv", index=False)
    cohort = prepare(folder / "m.csv", SCHEMA, folder / "cohort").cohort
    amodal.fit("modality_dropout", cohort.split("train"), cohort.split("valid"), epochs=1, seed=0, width=8,
               out=folder / "run", progress=False, device="cpu")  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def client(run: Path) -> TestClient:
    return TestClient(make_app(Service.load(run), most_bytes=2**20), raise_server_exceptions=False)


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_a_whole_case_is_predicted_as_from_the_table(client: TestClient, run: Path):
    folder = run.parent
    frame = predict_table(amodal.load(run), open_table(folder / "m.csv"), root=folder).set_index("id")
    case: dict[str, Any] = {
        "clinical": {"age": 35, "sex": "M"},
        "note": "note 5",
        "scan": base64.b64encode((folder / "5.png").read_bytes()).decode(),
        "voice": base64.b64encode((folder / "5.wav").read_bytes()).decode(),
        "vector": np.load(folder / "5.npy").tolist(),
        "vitals": [{"time": h, "variable": "HR", "value": 65} for h in range(4)]
        + [{"time": 1, "variable": "Temp", "value": 37, "units": "degC"}],
    }
    said = client.post("/predict", json=case)
    assert said.status_code == 200, said.text
    record = said.json()
    assert record["observed"] == list(SCHEMA["modalities"])
    assert record["prediction"]["probabilities"]["yes"] == pytest.approx(frame.loc["c5", "p_yes"], abs=1e-5)
    assert record["prediction"]["predicted"] == frame.loc["c5", "predicted"]
    form = {"clinical.age": "35", "clinical.sex": "M", "note": "note 5", "vitals": json.dumps(case["vitals"])}
    files = {name: (f"5.{end}", (folder / f"5.{end}").read_bytes()) for name, end in
             (("scan", "png"), ("voice", "wav"), ("vector", "npy"))}  # fmt: skip
    as_form = client.post("/predict", data=form, files=files)
    assert as_form.status_code == 200, as_form.text
    assert as_form.json()["prediction"]["probabilities"] == pytest.approx(
        record["prediction"]["probabilities"], abs=1e-6
    )


@pytest.mark.parametrize(
    ("case", "observed"),
    [
        ({}, []),
        ({"clinical": None, "note": ""}, []),
        ({"clinical": {"sex": "F"}}, ["clinical"]),
        ({"note": "fever", "vector": [1, 2, 3]}, ["note", "vector"]),
        ({"vitals": [{"time": 0, "variable": "HR", "value": 70}]}, ["vitals"]),
    ],
)
def test_any_subset(client: TestClient, case: dict, observed: list[str]):
    said = client.post("/predict", json=case)
    assert said.status_code == 200, said.text
    assert said.json()["observed"] == observed
    assert sum(said.json()["prediction"]["probabilities"].values()) == pytest.approx(1)


def test_oddities_are_notes(client: TestClient):
    said = client.post("/predict", json={"clinical": {"age": 300, "sex": "X"}, "note": "a"}).json()
    assert any("out of range 0 … 120" in note for note in said["notes"])
    assert any("unknown category: 'X'" in note for note in said["notes"])
    assert said["observed"] == ["note"]


BAD: list[tuple[Any, int, str | None, str]] = [
    ({"clinicl": {}}, 422, "clinicl", "Did you mean 'clinical'?"),
    ({"clinical": {"agee": 3}}, 422, "clinical.agee", "Did you mean 'age'?"),
    ({"clinical": {"age": "old"}}, 422, "clinical.age", "expected a number, got 'old'"),
    ({"clinical": {"age": True}}, 422, "clinical.age", "expected a number"),
    ({"clinical": {"age": [1]}}, 422, "clinical.age", "expected a number"),
    ({"clinical": [1, 2]}, 422, "clinical", "expected an object"),
    ({"note": 3}, 422, "note", "expected a text"),
    ({"scan": "no base64!"}, 422, "scan", "base64"),
    ({"scan": base64.b64encode(b"no image").decode()}, 422, "scan", "it is no PNG, JPEG, TIFF"),
    ({"voice": base64.b64encode(b"RIFF and no more").decode()}, 422, "voice", "cannot be decoded"),
    ({"vector": [1, 2]}, 422, "vector", "shape (2,) (expected (3,))"),
    ({"vector": [1, "a", 2]}, 422, "vector", "expected numbers"),
    ({"vector": [1, [2], 3]}, 422, "vector", "expected numbers"),
    ({"vitals": {}}, 422, "vitals", "a list"),
    ({"vitals": [{"time": 1}]}, 422, "vitals.0", "time, variable and value"),
    ({"vitals": [{"time": 1, "variable": "hr", "value": 2}]}, 422, "vitals.0.variable", "Did you mean 'HR'?"),
    ({"vitals": [{"time": 1, "variable": "HR", "value": 2, "units": "Hz"}]}, 422, "vitals.0.units", "1/min"),
    ([1], 422, "body", "an object of modalities"),
    ({"\ud800": 1}, 422, "?", "unknown modality"),
    ({"clinical": {"\ud800": 1}}, 422, "clinical.?", "unknown column"),
    ({"clinical": {"age": "\ud8003"}}, 422, "clinical.age", "expected a number, got"),
    ({"vector": json.loads("[" * 900 + "1" + "]" * 900)}, 422, "vector", "expected numbers"),
]


@pytest.mark.parametrize(("case", "status", "field", "words"), BAD)
def test_errors_name_the_field(client: TestClient, case: Any, status: int, field: str | None, words: str):
    said = client.post("/predict", content=json.dumps(case), headers={"content-type": "application/json"})
    assert said.status_code == status, said.text
    assert said.json()["error"]["field"] == field
    assert words in said.json()["error"]["problem"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"vector": [NaN, 1, 2]}', "application/json", 422),
        (b'{"clinical": {"age": Infinity}}', "application/json", 422),
        (b'{"clinical": {"age": 1e999}}', "application/json", 422),
        (b'{"vector": [1e300, 1, 2]}', "application/json", 422),
        (b"age=3", "text/plain", 415),
        (b"no boundary", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=b", 400),
        (b"{" + b",".join(b'"%d":1' % i for i in range(50_000)) + b',"7":1}', "application/json", 422),
        (b"note=a&note=b", "application/x-www-form-urlencoded", 422),
        (b"clinical.age=3&clinical.age=4", "application/x-www-form-urlencoded", 422),
        (b"clinical=7&clinical.sex=F", "application/x-www-form-urlencoded", 422),
        (b"clinical.sex=F&clinical={}", "application/x-www-form-urlencoded", 422),
        (b"clinical=&clinical.sex=F", "application/x-www-form-urlencoded", 200),
        (b'{"note": "' + b"a" * 2**20 + b'"}', "application/json", 413),
    ],
)
def test_bodies_that_are_none(client: TestClient, content: bytes, kind: str, status: int):
    said = client.post("/predict", content=content, headers={"content-type": kind})
    assert said.status_code == status, said.text
    assert status == 200 or said.json()["error"]["problem"]


def test_a_body_that_does_not_say_how_large_it_is(client: TestClient):
    said = client.post(
        "/predict", content=(b"a" * 2**16 for _ in range(40)), headers={"content-type": "application/json"}
    )
    assert said.status_code == 413


def test_health_schema_and_form(client: TestClient):
    assert client.get("/health").json() == {"status": "ok", "run": "run", "method": "modality_dropout"}
    schema = client.get("/schema").json()
    assert [field["name"] for field in schema["modalities"]] == list(SCHEMA["modalities"])
    assert schema["modalities"][0]["columns"][1]["categories"] == ["F", "M"]
    page = client.get("/")
    assert page.status_code == 200
    assert 'name="clinical.age"' in page.text
    assert 'type="file"' in page.text
    assert client.get("/nowhere").json()["error"]["problem"] == "Not Found"


def test_the_form_says_units_once_and_what_is_usual(run: Path, client: TestClient):
    page = client.get("/").text
    assert "<title>y: one case</title>" in page
    assert "age (years)" in page
    assert re.search(r'name="clinical.age"[^>]+placeholder="30 to 59, mean 4\d', page), "the training rows' ages"
    assert re.search(r'data-usual="60 to 89, mean \d', page), "a variable of the events"
    column = Column("CRP [mg/l]", units="mg/l")
    assert [_label(column.name, column.units), _label("heart_rate", "1/min")] == ["CRP [mg/l]", "heart rate (1/min)"]


def test_events_may_be_uploaded_as_a_table(client: TestClient):
    events = [{"time": h, "variable": "HR", "value": 65} for h in range(4)]
    expected = client.post("/predict", json={"vitals": events}).json()["prediction"]
    for table in ("time,variable,value\n" + "".join(f"{h},HR,65\n" for h in range(4)),
                  "\ufeffVariable;Time;Value;Units\n" + "".join(f"HR;{h};65;\n" for h in range(4))):  # fmt: skip
        answer = client.post("/predict", files={"vitals": ("vitals.csv", table.encode())})
        assert answer.status_code == 200, answer.text
        assert answer.json()["prediction"] == expected
    for table in (b"hour,name\n1,HR\n", b"\xff\xfe\x00", b""):
        answer = client.post("/predict", files={"vitals": ("vitals.csv", table)})
        assert answer.status_code == 422 or (answer.status_code == 200 and "vitals" in answer.json()["absent"])


def test_an_answer_has_the_base_rate_and_what_could_still_change(client: TestClient, run: Path):
    case = {"clinical": {"age": 35}}
    alone = client.post("/predict", json=case).json()
    assert sum(alone["prediction"]["base"].values()) == pytest.approx(1)
    assert alone["still_open"] is None, "modality_dropout draws nothing, and there are no training cases"
    service = Service.load(run, data=str(run.parent / "cohort"))
    with_cases = TestClient(make_app(service))
    said = with_cases.post("/predict", json=case).json()
    still = said["still_open"]
    assert set(still["by_modality"]) == set(said["absent"])
    assert 0 < max(still["by_modality"].values()) <= still["variability"] + 1e-9 <= 0.5 + 1e-9
    for label, (low, high) in still["range"].items():
        assert 0 <= low <= high <= 1, label
    assert set(still["plausible"]) <= {"no", "yes"}
    assert "median" in with_cases.get("/").text
    assert with_cases.post("/predict", json={}).json()["still_open"] is None, "nothing is known at all"


def test_the_page_on_the_interface_needs_no_network(client: TestClient):
    response = client.get("/docs")
    page = response.text
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.findall(r"<script|<link|(?:src|href)=\"(?:https?:)?//|@import|url\(", page)
    assert client.get("/redoc").status_code == 404
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"<code>{method.upper()} {path}</code>" in page
            assert operation["summary"] in page
            assert all(f"<code>{status}</code> {said['description']}" in page for status, said in
                       operation["responses"].items())  # fmt: skip
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "age : number or string or null; years" in text
    assert 'sex : string or number or null; such as "F" , "M"' in text
    assert 'time (required) : number variable (required) : one of "HR" , "Temp"' in text
    assert "clinical.age : string" in text
    assert "scan : file" in text
    assert 'predicted (required) : one of "no" , "yes"' in text


def test_a_run_of_no_table_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cohort = amodal.Cohort.from_arrays({"a": np.random.default_rng(0).normal(size=(40, 2))}, target=np.arange(40) % 2,
                                       task=Task("binary", classes=(0, 1)))  # fmt: skip
    amodal.fit("fusion", cohort, epochs=1, seed=0, width=8, progress=False, device="cpu").save(tmp_path / "run")
    assert main(["serve", str(tmp_path / "run")]) == 2
    assert "not trained on a table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"kind": "regression", "column": "days", "units": "d"}, {"name", "value", "units", "base"}),
        ({"kind": "multilabel", "columns": {"A": "a", "B": "b"}}, {"name", "probabilities", "base"}),
    ],
)
def test_other_tasks(task: dict, expected: set[str], tmp_path: Path):
    rng = np.random.default_rng(0)
    pd.DataFrame({
        "x": rng.normal(size=40), "days": rng.uniform(1, 9, 40),
        "a": rng.integers(0, 2, 40), "b": rng.integers(0, 2, 40),
    }).to_csv(tmp_path / "m.csv", index=False)  # fmt: skip
    schema = {
        "task": task, "split": {"fractions": {"train": 0.8, "valid": 0.2}},
        "modalities": {"t": {"kind": "tabular", "columns": ["x"]}},
    }  # fmt: skip
    cohort = prepare(tmp_path / "m.csv", schema, tmp_path / "c").cohort
    model = amodal.fit("fusion", cohort.split("train"), cohort.split("valid"), epochs=1, seed=0, width=8,
                       out=tmp_path / "run", progress=False, device="cpu")  # fmt: skip
    said = TestClient(make_app(Service.load(tmp_path / "run"))).post("/predict", json={"t": {"x": 0.5}}).json()
    assert set(said["prediction"]) == expected
    frame = predict_table(model, open_table(tmp_path / "m.csv"), root=tmp_path)
    assert len(frame) == 40
    assert np.isfinite(frame.iloc[:, 1].to_numpy(float)).all()
    if task["kind"] == "regression":
        assert 0 < said["prediction"]["value"] < 10


@pytest.mark.slow
def test_schemathesis_finds_no_failure_of_the_service(run: Path):
    """Requests made from the service's own OpenAPI document, good and bad: documented answers, never a 500."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    app = make_app(Service.load(run), most_bytes=2**20)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    specs = schemathesis.specs.openapi.checks
    checks = [
        schemathesis.checks.not_a_server_error,
        specs.status_code_conformance,
        specs.content_type_conformance,
        specs.response_schema_conformance,
    ]
    answers: list[int] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=80, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def answers_as_documented(case: Any) -> None:
                response = case.call()
                answers.append(response.status_code)
                case.validate_response(response, checks=checks)

            try:
                answers_as_documented()
            except Exception as error:
                if "Unsatisfiable" not in type(error).__name__:
                    raise
    assert len(answers) > 100
    assert 500 not in answers
    assert 200 in answers
    assert 422 in answers


def test_a_large_image_is_refused_before_it_is_decoded(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    Image.new("1", (6000, 5000)).save(buffer := io.BytesIO(), "PNG")
    monkeypatch.setattr("PIL.Image.Image.load", lambda self: pytest.fail("it was decoded"))
    answer = client.post("/predict", json={"scan": base64.b64encode(buffer.getvalue()).decode()})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "scan"
    assert "30,000,000 pixels (expected 25,000,000" in answer.json()["error"]["problem"]


def test_an_image_unlike_those_of_training_is_told(client: TestClient):
    answer = client.post(
        "/predict", json={"scan": base64.b64encode(png(np.full((8, 8), 255, np.uint8))).decode()}
    ).json()
    assert any(note.startswith("scan: mean level 255 beyond the training images'") for note in answer["notes"])
    assert any(note.startswith("scan: contrast 0 beyond the training images'") for note in answer["notes"])


@pytest.mark.parametrize("content", [b"t" * 200_000, b"time,variable,value\n1,HR," + b"9" * 200_000, b"\xff\xfe"])
def test_tables_of_events_that_are_none(client: TestClient, content: bytes):
    answer = client.post("/predict", files={"vitals": ("events.csv", content)})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "vitals"


def test_half_a_surrogate_pair_is_read_as_a_question_mark(client: TestClient):
    case = b'{"note": "a\\ud800b", "clinical": {"sex": "\\ud800"}}'
    answer = client.post("/predict", content=case, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert "column 'sex': unknown category: '?'" in " ".join(answer.json()["notes"])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 400),
        ("127.0.0.1.evil.example:8000", 400),
        ("", 400),
        ("localhost:8000", 200),
        ("LOCALHOST.", 200),
        ("10.1.2.3", 200),
        ("[::1]:8000", 200),
        ("risk.clinic.example", 200),
    ],
)
def test_other_hosts_are_refused(run: Path, host: str, status: int):
    app = make_app(Service.load(run), hosts=("Risk.clinic.example",))
    assert TestClient(app).get("/health", headers={"host": host}).status_code == status


def test_a_request_that_does_not_begin_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    """Silent clients, and those that send a head drop by drop; one that was answered may ask again."""
    from amodal.serve.connection import PatientProtocol

    monkeypatch.setattr(PatientProtocol, "seconds", 0.3)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def check():
        server = uvicorn.Server(uvicorn.Config(app, port=0, http=PatientProtocol, lifespan="off", log_level="error"))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup()
        port = server.servers[0].sockets[0].getsockname()[1]

        async def closed_after(*sent: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for part in sent:
                writer.write(part)
                await asyncio.sleep(0.05)
            answer = await asyncio.wait_for(reader.read(), 4)
            writer.close()
            await writer.wait_closed()
            return answer

        head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        assert await closed_after() == b""
        assert await closed_after(b"GET / HT", b"TP/1.1\r\nho") == b""
        assert (await closed_after(head, head, b"GET /")).count(b"200 OK") == 2
        await server.shutdown()

    asyncio.run(check())


def test_a_key_that_stands_twice(client: TestClient):
    answer = client.post("/predict", content='{"note": "a", "note": "b"}', headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "'note' twice" in answer.json()["error"]["problem"]


def test_slow_and_many_bodies_are_refused():
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass

    def status(parts: list[tuple[float, int]], held: int = 0) -> int | None:
        waiting, sent = list(parts), []

        async def receive():
            seconds, size = waiting.pop(0)
            await asyncio.sleep(seconds)
            return {"type": "http.request", "body": bytes(size), "more_body": bool(waiting)}

        async def send(message):
            sent.append(message)

        limit = SizeLimit(app, 1000, seconds=0.2)
        limit.held = held
        asyncio.run(limit({"type": "http", "headers": []}, receive, send))
        assert limit.held == held, "what was held is given back"
        return sent[0]["status"] if sent else None

    assert status([(0, 500), (0, 500)]) is None
    assert status([(0, 500), (0, 501)]) == 413
    assert status([(0, 1), (60, 1)]) == 408
    assert status([(0, 500)], held=7900) == 503


def test_a_number_too_large_for_the_model_names_its_field(client: TestClient):
    for value in (1e300, "1e300"):
        answer = client.post("/predict", json={"vitals": [{"time": 0, "variable": "HR", "value": value}]})
        assert answer.status_code == 422
        assert answer.json()["error"]["field"] == "vitals.0.value"
        assert "below 3.4e+38" in answer.json()["error"]["problem"]


@pytest.mark.parametrize("header", ["[" * 118, "{" * 118, "\0" * 118, "(" * 50 + "'" * 68])
def test_an_array_whose_header_is_nonsense_is_refused(client: TestClient, header: str):
    content = b"\x93NUMPY\x01\x00v\x00" + header.encode()
    answer = client.post("/predict", json={"vector": base64.b64encode(content).decode()})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "vector"
    assert "no array that can be read" in answer.json()["error"]["problem"]


def test_errors_do_not_tell_where_the_service_keeps_its_files(client: TestClient):
    answer = client.post("/predict", json={"voice": base64.b64encode(b"OggS" + b"\0" * 100).decode()})
    assert answer.status_code == 422
    assert "cannot be decoded" in answer.json()["error"]["problem"]
    assert "/tmp" not in answer.text
    assert "amodal-serve" not in answer.text


def test_an_uploaded_table_with_a_column_twice_is_refused(client: TestClient):
    content = b"time,variable,value,Value\n1,HR,70,80"
    answer = client.post("/predict", files={"vitals": ("events.csv", content)})
    assert answer.status_code == 422
    assert answer.json()["error"] == {"field": "vitals", "problem": "expected every column once, got 'value' twice"}


def test_a_load_balancer_may_ask_with_head(client: TestClient):
    for path in ("/health", "/"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    refused = client.options("/predict")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


def test_a_case_in_the_url_is_not_overlooked(client: TestClient):
    answer = client.post("/predict?note=a", json={})
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "field": "note",
        "problem": "expected the case in the body of the request, not in its URL",
    }


def test_an_empty_file_is_no_absent_modality(client: TestClient):
    answer = client.post("/predict", files={"scan": ("a.png", b"")})
    assert (answer.status_code, answer.json()["error"]) == (422, {"field": "scan", "problem": "the file is empty"})
    nothing_chosen = b'--b\r\nContent-Disposition: form-data; name="scan"; filename=""\r\n\r\n\r\n--b--\r\n'
    answer = client.post(
        "/predict", content=nothing_chosen, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 200
    assert "scan" in answer.json()["absent"]


@pytest.mark.parametrize("name", ["Ünïcödé 日本語.png", 'a"b.png', "😀" * 300 + ".png", "../../x.png", "\u202egnp.exe"])
def test_the_name_of_an_uploaded_file_does_not_matter(client: TestClient, name: str):
    scan = png(np.zeros((8, 8), np.uint8))
    expected = client.post("/predict", json={"scan": base64.b64encode(scan).decode()}).json()
    assert client.post("/predict", files={"scan": (name, scan)}).json() == expected
