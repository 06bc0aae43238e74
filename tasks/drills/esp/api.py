"""The simulated ESP's REST API: listmonk v6's documented dialect, and two extensions under `/api/extensions`.

Answers are `{"data": …}`, refusals `{"message": …}` with listmonk's words and codes: 400 for what it does not know or
allow, 403 for wrong credentials, 409 for an address that exists. Faults are applied here too.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tasks.drills.draws import one
from tasks.drills.esp import campaigns, evidence, lists, store, subscribers, templates
from tasks.drills.esp.calls import Call, Handler, Refused, require_consent_works
from tasks.drills.esp.engine import Engine
from tasks.drills.esp.schema import CAMPAIGN_LISTS, CAMPAIGNS, SUBSCRIBERS


def build_api(engine: Engine, *, user: str, token: str, seed: int) -> Starlette:
    """Return the ASGI application."""
    gate = _Gate(engine, user, token, seed)
    public = [
        ("GET", "/health", _health),
        ("POST", "/subscription/{campaign}/{subscriber}", _one_click),
    ]
    guarded = [("GET", "/api/health", _health)]
    for module in (lists, subscribers, campaigns, templates, evidence):
        guarded += module.ROUTES
    return Starlette(
        routes=[
            Route(path, gate.endpoint(handler, guarded=closed), methods=[method])
            for routes, closed in ((public, False), (guarded, True))
            for method, path, handler in routes
        ],
        exception_handlers={HTTPException: _http_error},
    )


class _Gate:
    """What every request passes: faults, credentials, one transaction under the ESP's lock, errors as listmonk's."""

    def __init__(self, engine: Engine, user: str, token: str, seed: int) -> None:
        self._engine = engine
        self._user = user
        self._token = token
        self._seed = seed
        self._requests = 0

    def endpoint(self, handler: Handler, *, guarded: bool) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            faults = self._engine.faults
            self._requests += 1
            if "slow" in faults:
                await asyncio.sleep(faults.get("slow", "seconds", 0.0))
            if "hard_down" in faults:
                return _message(503, "Service Unavailable")
            share = faults.get("partial", "share", 0.0)
            if share and one(self._seed, "partial request", 0, self._requests) < share:
                return _message(503, "Service Unavailable")
            if guarded and (refusal := self._refusal(request.headers.get("authorization", ""))):
                return _message(403, refusal)
            raw = await request.body()
            try:
                body = json.loads(raw) if raw and "json" in request.headers.get("content-type", "") else None
            except ValueError:
                return _message(400, "Syntax error in the request body")
            query: dict[str, list[str]] = {}
            for name, value in request.query_params.multi_items():
                query.setdefault(name, []).append(value)
            return await run_in_threadpool(self._run, handler, dict(request.path_params), query, body)

        return answer

    def _run(
        self, handler: Handler, path: dict[str, Any], query: dict[str, list[str]], body: Any
    ) -> Response:
        engine = self._engine
        try:
            with engine.lock, engine.database.begin() as connection:
                call = Call(engine, connection, store.naive(engine.now), path, query, body)
                data = handler(call)
        except Refused as refusal:
            return _message(refusal.status, refusal.message)
        if isinstance(data, Response):
            return data
        return JSONResponse({"data": data})

    def _refusal(self, header: str) -> str:
        scheme, _, credentials = header.strip().partition(" ")
        if scheme == "Basic":
            try:
                credentials = base64.b64decode(credentials, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return "invalid Base64 value in Basic Authorization header"
        elif scheme != "token":
            return "unknown Authorization scheme" if header else "invalid session"
        user, found, token = credentials.strip().partition(":")
        if not found:
            return "api_key:token missing"
        good = hmac.compare_digest(f"{user}:{token}".encode(), f"{self._user}:{self._token}".encode())
        return "" if good else "invalid API credentials"


def _message(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status_code=status)


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _message(status, {404: "Not Found", 405: "Method Not Allowed"}.get(status, "Error"))


def _health(_: Call) -> bool:
    """Answer true without looking at anything, as listmonk does."""
    return True


def _one_click(call: Call) -> bool:
    require_consent_works(call)
    campaign = call.connection.execute(
        sa.select(CAMPAIGNS.c.id).where(CAMPAIGNS.c.uuid == call.path["campaign"])
    ).scalar_one_or_none()
    subscriber = call.connection.execute(
        sa.select(SUBSCRIBERS.c.id).where(SUBSCRIBERS.c.uuid == call.path["subscriber"])
    ).scalar_one_or_none()
    if campaign is None or subscriber is None:
        raise Refused(404, "Subscription not found.")
    lists = call.connection.scalars(
        sa.select(CAMPAIGN_LISTS.c.list_id).where(CAMPAIGN_LISTS.c.campaign_id == campaign)
    ).all()
    store.unsubscribe(call.connection, [subscriber], [item for item in lists if item], call.now)
    call.engine.record_unsubscribe(call.connection, campaign, subscriber)
    return True
