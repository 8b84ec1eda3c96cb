"""Limits on requests: the size of a body, of all bodies at once, the time in which one arrives, and the host asked."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amodal.data.limits import REQUEST_SECONDS

__all__ = ["HostCheck", "SizeLimit"]

_BODIES = 8


class _Refused(Exception):
    def __init__(self, status: int, problem: str):
        super().__init__(problem)
        self.status, self.problem = status, problem


class SizeLimit:
    """ASGI middleware that answers 413 to bodies that are too large, 408 to slow ones, 503 if too much is under way.

    Args:
        app: The application.
        most_bytes: Largest body, whatever its header says; of all bodies at once it is eight times that.
        seconds: In which a body must have arrived.
    """

    def __init__(self, app: ASGIApp, most_bytes: int, seconds: float = REQUEST_SECONDS):
        self.app, self.most_bytes, self.seconds = app, most_bytes, seconds
        self.held = 0  # bytes of all bodies under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most_bytes:
            await self._refuse(self._too_large(), scope, receive, send)
            return
        read, started, complete = 0, False, False
        end = asyncio.get_running_loop().time() + self.seconds

        async def counted() -> Message:
            nonlocal read, complete
            if complete:
                return await receive()
            try:
                left = end - asyncio.get_running_loop().time()
                message = await asyncio.wait_for(receive(), max(left, 1e-3))
            except TimeoutError:
                raise _Refused(408, f"expected the whole body within {self.seconds:g} seconds") from None
            complete = not message.get("more_body", False)
            size = len(message.get("body", b""))
            read, self.held = read + size, self.held + size
            if read > self.most_bytes:
                raise self._too_large()
            if self.held > _BODIES * self.most_bytes:
                raise _Refused(503, "too many large requests at once: try again later")
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _Refused as refused:
            if not started:
                await self._refuse(refused, scope, receive, send)
        finally:
            self.held -= read

    def _too_large(self) -> _Refused:
        return _Refused(413, f"expected a body of at most {self.most_bytes:,} bytes")

    async def _refuse(self, refused: _Refused, scope: Scope, receive: Receive, send: Send) -> None:
        error = {"error": {"field": "body", "problem": refused.problem}}
        await JSONResponse(error, status_code=refused.status)(scope, receive, send)


class HostCheck:
    """ASGI middleware that answers 400 to requests for another host.

    A page of the internet whose name was made to point to this machine would otherwise be served by the visitor's own
    browser. Addresses, localhost and the machine's own name are never such a name.

    Args:
        app: The application.
        names: Further names that are answered.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]):
        self.app = app
        self.names = {name.lower().rstrip(".") for name in (*names, "localhost", socket.gethostname()) if name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        given = [value for key, value in scope.get("headers", ()) if key == b"host"]
        if scope["type"] == "http" and not all(self._is_known(value.decode("latin-1")) for value in given):
            problem = "this service is not reached under that name; `amodal serve --hosts` adds names"
            error = {"error": {"field": "host", "problem": problem}}
            await JSONResponse(error, status_code=400)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        name, sign, port = host.strip().lower().rpartition(":")
        if not sign or not port.isdigit():  # no port: a colon may be one of an IPv6 address
            name = host.strip().lower()
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.rstrip(".") in self.names
        return True
