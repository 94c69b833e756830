"""A FastAPI application as stoker runs it: stream the time, and say who you are."""

import asyncio
import datetime
import os

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


@app.get("/")
def who():
    # stoker tells each worker who it is by STOKER_NAME, STOKER_INDEX, STOKER_SOCKET, …
    return {"worker": os.environ.get("STOKER_NAME"), "pid": os.getpid()}


@app.get("/health")
def health():
    return {"status": "healthy"}


@app.get("/clock")
async def clock(ticks: int = 10):
    async def events():
        for _ in range(ticks):
            yield f"data: {datetime.datetime.now().isoformat()}\n\n"
            await asyncio.sleep(0.5)
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
