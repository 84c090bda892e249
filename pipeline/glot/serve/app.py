"""The paths of a server: what they take, what they answer, and every refusal in one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glot.errors import GlotError, UsageError
from glot.serve.batcher import Batcher, Full
from glot.serve.options import Limits
from glot.serve.service import Facts, Offer, Service
from glot.version import __version__

SHAPE = 'a JSON object as {"texts": ["..."]}, sent as Content-Type: application/json'
RETRY_SECONDS = 1


class Texts(BaseModel):
    """Texts, or the first and the second ones of pairs."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"texts": ["a late goal"]}]})
    texts: list[str] = Field(min_length=1)
    texts_b: list[str] | None = None


class Label(BaseModel):
    """The likeliest class of a text, and how likely each is."""

    label: str
    probabilities: dict[str, float]


class Labels(BaseModel):
    """The labels of a text that may have several, or none, and how likely each is."""

    labels: list[str]
    probabilities: dict[str, float]


class Score(BaseModel):
    """The score of a text, in the task's units."""

    score: float


class Predictions(BaseModel):
    """One for each text, in their order: labels, or scores."""

    predictions: list[Label] | list[Labels] | list[Score]


class Vectors(BaseModel):
    """One for each text, in their order."""

    vectors: list[list[float]]


class Problem(BaseModel):
    """What is wrong, in one line."""

    detail: str


PROBLEMS: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (413, 422, 500, 503)}


def make_app(service: Service, limits: Limits, ready: Callable[[], None] = lambda: None) -> FastAPI:
    """The application; `ready` is called when it begins to answer.

    When the server shuts down, what still waits is answered first.
    """
    batcher = Batcher(limits.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with batcher:
            ready()
            yield

    async def ask(offer: Offer, given: Texts) -> Any:
        _check_size(given, limits)
        rows = offer.rows(given.texts, given.texts_b)
        return await asyncio.wrap_future(batcher.submit(offer.call, rows))

    app = FastAPI(
        title="glot serve",
        version=__version__,
        description="Labels or scores, and vectors, of texts.",
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(BodyLimit, most=limits.body_bytes)
    app.add_exception_handler(RequestValidationError, _on_wrong_body)
    app.add_exception_handler(GlotError, _on_error)
    app.add_exception_handler(Full, _on_full)
    app.add_exception_handler(Exception, _on_fault)

    @app.post("/predict", responses=PROBLEMS)
    async def predict(given: Texts) -> Predictions:
        """The label and every class' probability, or the score, of each text (or pair)."""
        return Predictions(predictions=await ask(service.predict, given))

    @app.post("/encode", responses=PROBLEMS)
    async def encode(given: Texts) -> Vectors:
        """The vector of each text."""
        return Vectors(vectors=await ask(service.encode, given))

    @app.get("/health")
    async def health() -> Facts:
        """What is served; answers also while a batch is being forwarded."""
        return service.facts

    return app


class BodyLimit:
    """Stops reading a request whose body is longer than `most` bytes, whatever its header says: 413."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting its bytes."""
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                raise HTTPException(413, f"the body is longer than {self.most:,} bytes: send fewer texts a request")
            return message

        await self.app(scope, counted, send)


def _check_size(given: Texts, limits: Limits) -> None:
    """Raise HTTPException 413 for more texts, or a longer one, than are taken."""
    for name, texts in (("texts", given.texts), ("texts_b", given.texts_b or [])):
        if len(texts) > limits.texts:
            raise HTTPException(
                413, f"{name} holds {len(texts):,} texts, and a request takes {limits.texts:,}: send several requests"
            )
        for number, text in enumerate(texts):
            if len(text) > limits.characters:
                raise HTTPException(
                    413, f"{name}[{number}] has {len(text):,} characters, and a text may have {limits.characters:,}"
                )


async def _on_wrong_body(request: Request, error: Exception) -> JSONResponse:
    """What is wrong with a body, and where, without repeating it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    kind, place = first["type"], [step for step in first["loc"] if step != "body"]
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
    if kind == "json_invalid":
        said = f"the body is no JSON ({first['ctx']['error']} at character {place[0]})"
    elif not place:
        said = f"the body must be {SHAPE}"
    elif kind == "extra_forbidden":
        said = f"there is no {name}: pass texts, and for pairs texts_b"
    elif kind == "missing":
        said = f"{name} is missing: pass {SHAPE}"
    elif kind == "too_short":
        said = f"{name} is empty: pass one text at least"
    else:
        said = f"{name}: {first['msg']}"
    return _problem(422, said)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    return _problem(422 if isinstance(error, UsageError) else 500, str(error))


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    return _problem(500, "the server failed: its log says why")


async def _on_full(request: Request, error: Exception) -> JSONResponse:
    response = _problem(503, f"too many texts wait: try again in {RETRY_SECONDS} s")
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def _problem(code: int, said: str) -> JSONResponse:
    return JSONResponse({"detail": " ".join(said.split())}, code)
