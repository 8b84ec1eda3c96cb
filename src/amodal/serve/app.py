"""The web service of one run: /predict, /schema, /health, OpenAPI with a page that describes it, and a form."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from amodal.data.limits import REQUEST_MEGABYTES
from amodal.data.table import TableSchema
from amodal.data.table.events import Events
from amodal.data.table.tabular import Tabular
from amodal.data.table.text import Text
from amodal.errors import AmodalError
from amodal.serve.case import BadField, read_events, written
from amodal.serve.connection import PatientProtocol
from amodal.serve.limit import HostCheck, SizeLimit
from amodal.serve.models import Error, answer_model, case_model, form_model, without_references
from amodal.serve.service import Service
from amodal.versions import versions

__all__ = ["make_app", "run_server"]

_LOG = logging.getLogger("amodal.serve")
_MOST_FIELDS = 2000
_MOST_CONNECTIONS = 256


def make_app(
    service: Service, *, most_bytes: int = REQUEST_MEGABYTES * 2**20, hosts: Sequence[str] | None = None
) -> FastAPI:
    """The web application.

    Args:
        service: What answers.
        most_bytes: Largest body of a request.
        hosts: Names under which it is reached, besides addresses and localhost; None: any.
    """
    app = FastAPI(
        title=f"amodal: {service.name}",
        version=versions().get("amodal", "0") or "0",
        description=_ABOUT,
        docs_url=None,  # the usual pages fetch their scripts from the internet, which a hospital may not have
        redoc_url=None,
    )
    app.add_middleware(SizeLimit, most_bytes=most_bytes)
    if hosts is not None:
        app.add_middleware(HostCheck, names=hosts)
    errors: dict[int | str, dict[str, Any]] = {
        code: {"model": Error, "description": what} for code, what in _STATES.items()
    }
    answer = {"model": answer_model(service.model.schema.task), "description": "The prediction."}

    @app.head("/health", include_in_schema=False)  # what a load balancer may ask with
    @app.get("/health", summary="Whether the service is up", responses={200: {"description": "It is."}})
    def health() -> dict[str, str]:
        return {"status": "ok", "run": service.name, "method": str(service.model.experiment["spec"]["method"])}

    @app.get("/schema", summary="What a case may hold, and what is predicted")
    def schema() -> dict[str, Any]:
        return service.describe()

    async def predict(request: Request) -> JSONResponse:
        read = await _received(request, service.rules)
        return JSONResponse(await run_in_threadpool(service.answer, read))

    app.add_api_route(
        "/predict",
        predict,
        methods=["POST"],
        summary="Predict one case, whatever it lacks",
        responses={200: answer, **errors},
        openapi_extra={"requestBody": _request_body(service.rules)},
        response_class=JSONResponse,
        response_model=None,
    )

    @app.head("/", include_in_schema=False)
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def form() -> HTMLResponse:
        return HTMLResponse(_page(service), headers={"Content-Security-Policy": _POLICY})

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    def interface() -> HTMLResponse:
        document = app.openapi()
        page = _render("interface.html", document=without_references(document, document["components"]["schemas"]))
        return HTMLResponse(page, headers={"Content-Security-Policy": _STATIC_POLICY})

    _add_handlers(app)
    return app


def run_server(
    run: Path, *, host: str, port: int, hosts: Sequence[str], most_megabytes: int, device: str, data: str = ""
) -> None:
    """Loads a run and serves it until stopped."""
    import uvicorn

    service = Service.load(run, device, data=data)
    app = make_app(service, most_bytes=most_megabytes * 2**20, hosts=(host, *hosts))
    print(f"Serving {run} at http://{host}:{port} (stop with Ctrl-C)")
    uvicorn.run(
        app, host=host, port=port, log_level="warning", limit_concurrency=_MOST_CONNECTIONS, http=PatientProtocol,
        ws="none",
    )  # fmt: skip


def _request_body(rules: TableSchema) -> dict[str, Any]:
    content = {"application/json": case_model(rules), "multipart/form-data": form_model(rules)}
    schemas = {kind: model.model_json_schema() for kind, model in content.items()}
    inline = {kind: {"schema": without_references(one, one.get("$defs", {}))} for kind, one in schemas.items()}
    return {"required": True, "content": inline}


_ABOUT = (
    "Predictions for cases of which some modalities may be missing. Every modality is optional. The service knows no "
    "users and no encryption: before more than one machine, put a proxy with TLS and a login before it."
)
_STATES = {
    400: "The body is no JSON or no form, or the host is not one of this service.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is neither JSON nor a form.",
    422: "A field cannot be used; the error names it.",
    503: "Too many large requests at once.",
}

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


_STATIC_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def _error(status: int, problem: str, field: str | None = None) -> JSONResponse:
    said = {"field": None if field is None else written(field), "problem": written(problem)}
    return JSONResponse({"error": said}, status_code=status)


def _add_handlers(app: FastAPI) -> None:
    """Errors are JSON with the field's name, whatever goes wrong."""

    async def bad_field(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, BadField)
        return _error(422, error.problem, error.field)

    async def bad_case(request: Request, error: Exception) -> JSONResponse:
        return _error(422, str(error))

    async def bad_request(request: Request, error: Exception) -> JSONResponse:
        return _error(422, str(error)[:500])

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = _error(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    async def failed(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("a request failed", exc_info=error)
        return _error(500, "the service failed; its log says why")

    app.add_exception_handler(BadField, bad_field)
    app.add_exception_handler(AmodalError, bad_case)
    app.add_exception_handler(RequestValidationError, bad_request)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, failed)


async def _received(request: Request, rules: TableSchema) -> Callable[[], dict[str, Any]]:
    """The body of a request, which gives the case by modality once it is called: one at a time is unfolded."""
    if request.query_params:
        raise BadField(next(iter(request.query_params)), "expected the case in the body of the request, not in its URL")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return partial(_from_json, await request.body())
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        async with request.form(max_files=100, max_fields=_MOST_FIELDS, max_part_size=2**20) as form:
            items = [
                (name, await _uploaded(name, value) if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
            return partial(_from_form, items, rules)
    raise HTTPException(415, "expected application/json or multipart/form-data")


async def _uploaded(name: str, file: UploadFile) -> bytes:
    """A file's bytes; none where no file was chosen, which a browser sends without a file's name."""
    content = await file.read()
    if file.filename and not content:
        raise BadField(name, "the file is empty")
    return content


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        record = json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(record, dict):
        raise BadField("body", "expected an object of modalities")
    return record


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which no key may stand twice: which of the two would count?"""
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise BadField("body", f"expected every key once, got {twice[:100]!r} twice")
    return record


def _refuse_constant(word: str) -> Any:
    raise BadField("body", f"expected finite numbers, got {word}")


def _from_form(items: list[tuple[str, str | bytes]], rules: TableSchema) -> dict[str, Any]:
    """A form's fields by modality: `clinical.age`, `notes`, files, and events as JSON."""
    tables = {s.name: {c.name for c in s.fields} for s in rules.sources if isinstance(s, Tabular)}
    events = {s.name for s in rules.sources if isinstance(s, Events)}
    is_text = {s.name for s in rules.sources if isinstance(s, Text)}
    sets = {s.name for s in rules.sources if s.set_rule()}
    given: dict[str, Any] = {}
    filled = Counter(name for name, content in items if content and name not in sets)
    twice = [name for name, count in filled.items() if count > 1]
    if twice:
        raise BadField(twice[0], "expected one value, got several")
    for name, content in items:
        table, _, column = name.partition(".")
        if table in tables and column:
            if isinstance(content, bytes):
                raise BadField(name, "expected a value, got a file")
            cells = given.get(table) or {}
            if not isinstance(cells, dict):
                raise BadField(table, "expected an object, or its columns one by one, got both")
            given[table] = cells | {column: content or cells.get(column)}
        elif not content:
            given.setdefault(name, None)
        elif name in events and isinstance(content, bytes):
            given[name] = read_events(name, content)
        elif name in events or (name in tables and isinstance(content, str)):
            if given.get(name):
                raise BadField(name, "expected an object, or its columns one by one, got both")
            try:
                given[name] = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
            except (ValueError, RecursionError):
                raise BadField(name, "expected JSON") from None
        elif name in sets and (name in is_text or isinstance(content, bytes)):  # a field for each member
            given[name] = [*(given.get(name) or []), content]
        elif name in is_text or isinstance(content, bytes):
            given[name] = content
        else:
            given[name] = _maybe_list(content)
    return given


def _maybe_list(content: str) -> Any:
    """An array written out in a form, or base64 text as it is."""
    if not content.lstrip().startswith("["):
        return content
    try:
        return json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return content


def _page(service: Service) -> str:
    return _render(
        "form.html",
        name=service.name,
        fields=service.describe()["modalities"],
        task=service.model.schema.task,
        explains=service.explains,
    )


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("amodal.serve", ""), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template).render(**values)
