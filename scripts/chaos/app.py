"""The FastAPI application of the test: what engine.go's own paths do."""

import asyncio
import fcntl
import hashlib
import os
import signal
import zlib

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

directory, name = os.environ["STOKER_CHAOS_DIR"], os.environ["STOKER_NAME"]
if os.path.exists(directory + "/crash"):
    os._exit(3)
signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
signal.signal(signal.SIGUSR2, lambda *_: os._exit(37))
log = os.open(directory + "/served", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
slot = os.open(directory + "/slot-" + name, os.O_CREAT | os.O_RDWR, 0o600)
try:
    fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    os.write(log, b"two %s %d\n" % (name.encode(), os.getpid()))
with open("/proc/self/stat", "rb") as stat:
    me = b"%d@%s" % (os.getpid(), stat.read().rsplit(b") ", 1)[1].split()[19])
app = FastAPI()


@app.get("/health")
async def health():
    return {"status": "ok"}


def note(request, n):
    seen = request.headers.get("x-request-id")
    os.write(log, b"id %s %s\n" % (seen.encode(), me))
    if seen != n:
        os.write(log, b"swapped %s %s\n" % (seen.encode(), n.encode()))


@app.get("/app/item/{n}")
async def item(n: str, request: Request, size: int, ms: int = 0):
    note(request, n)
    await asyncio.sleep(ms / 1000)
    return Response(hashlib.shake_128(n.encode()).digest(size), media_type="application/octet-stream")


@app.get("/app/stream/{n}")
async def stream(n: str, request: Request, events: int, ms: int = 0):
    note(request, n)

    async def body():
        for i in range(events):
            text = "%s-%d" % (n, i)
            yield "id: %d\ndata: %s %08x\n\n" % (i, text, zlib.crc32(text.encode()))
            await asyncio.sleep(ms / 1000)
        yield "data: [DONE]\n\n"

    return StreamingResponse(body(), media_type="text/event-stream")


@app.post("/app/digest/{n}")
async def digest(n: str, request: Request):
    note(request, n)
    total, sha = 0, hashlib.sha256()
    async for chunk in request.stream():
        total += len(chunk)
        sha.update(chunk)
    return Response("%s %d %s" % (n, total, sha.hexdigest()), media_type="text/plain")


@app.get("/app/silent/{n}")
async def silent(n: str, request: Request):
    note(request, n)
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    return Response()
