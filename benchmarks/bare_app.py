"""What the gateway is measured against: FastAPI with one route, and the same with one bare aiohttp call."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel


class Answer(BaseModel):
    """As large as the gateway's own answer."""

    user_id: str
    scopes: list[str]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client session for the process."""
    async with aiohttp.ClientSession() as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/bare")
async def bare() -> Answer:
    """A typed answer, nothing else."""
    return Answer(user_id="01a1fbd6-88a6-736c-a5d7-603d382112f9", scopes=["days:read", "samples:write"])


@app.get("/call")
async def call(request: Request) -> Response:
    """One call to the upstream, its body passed on."""
    async with request.app.state.session.get(os.environ["UPSTREAM"]) as answer:
        return Response(await answer.read(), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False, log_level="warning")
