"""The application behind stoker in its end-to-end tests: every answer can be
computed by the client, so that every byte can be checked."""

import asyncio
import hashlib
import os
import time
import zlib

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse

if os.environ.get("NO_MODEL"):
    try:
        open(os.environ["NO_MODEL"])
    except OSError as e:
        raise RuntimeError("no such model: " + os.environ["NO_MODEL"]) from e

app = FastAPI()
worker = {"X-Engine-Pid": str(os.getpid()), "X-Engine": os.environ.get("STOKER_NAME", "")}


def note(line):
    """One write, so that lines of several workers stay whole."""
    with open(os.environ["STOKER_E2E_EVENTS"], "a") as f:
        f.write(line + "\n")


@app.get("/item/{n}")
def item(n: int, size: int):
    return Response(hashlib.shake_128(b"%d" % n).digest(size), media_type="application/octet-stream", headers=worker)


@app.get("/work/{n}")
async def work(n: int, ms: int = 0):
    await asyncio.sleep(ms / 1000)
    return Response("answer %d " % n * 20, media_type="text/plain", headers=worker)


@app.post("/digest")
async def digest(request: Request):
    total, sha = 0, hashlib.sha256()
    async for chunk in request.stream():
        total += len(chunk)
        sha.update(chunk)
    return Response("%d %s" % (total, sha.hexdigest()), media_type="text/plain", headers=worker)


@app.get("/stream/{n}")
async def stream(n: int, events: int, ms: int = 0):
    async def body():
        try:
            for i in range(events):
                text = "%d-%d" % (n, i)
                yield "id: %d\ndata: %s %08x\n\n" % (i, text, zlib.crc32(text.encode()))
                await asyncio.sleep(ms / 1000)
        except asyncio.CancelledError:
            note("gone %d" % n)
            raise
        yield "data: [DONE]\n\n"

    return StreamingResponse(body(), media_type="text/event-stream", headers=worker)


@app.get("/bulk")
async def bulk():
    """8 MiB, as fast as they are taken."""

    async def body():
        for _ in range(256):
            yield b"x" * 32768

    return StreamingResponse(body(), media_type="application/octet-stream", headers=worker)


@app.get("/exit")
async def leave():
    os._exit(0)


@app.get("/silent/{n}")
async def silent(n: int, request: Request):
    """A prefill during which no byte flows, until the client goes."""
    note("held %d" % n)
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    note("gone %d" % n)
    return Response()


slots = asyncio.Semaphore(2)


@app.get("/queued/{n}")
async def queued(n: int, ms: int):
    """Two at a time: the others wait here, as in an engine that is full."""
    async with slots:
        await asyncio.sleep(ms / 1000)
    return Response("answer %d " % n * 20, media_type="text/plain", headers=worker)


@app.get("/health")
async def health():
    """Behind the same queue where asked for, and so as slow as everything."""
    if os.environ.get("HEALTH_QUEUED"):
        async with slots:
            pass
    return {"status": "ok"}


@app.get("/block")
async def block():
    """Nothing runs on the event loop any more, for ever."""
    note("blocked")
    while True:
        time.sleep(60)


@app.api_route("/head", methods=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def head(request: Request):
    fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw]
    path = request.scope["raw_path"].decode("latin-1")
    return {"method": request.method, "path": path, "query": request.scope["query_string"].decode("latin-1"), "fields": fields}


VALID = {"json", "json_object", "regex", "choice", "grammar", "structural_tag"}


@app.post("/v1/chat/completions")
async def chat(request: Request):
    """An engine that some requests kill: by their prompt, or by a structured
    output without any of the valid keys, at which an engine core once died and
    its API server exited cleanly."""
    body = await request.json()
    prompt = body["messages"][-1]["content"]
    await asyncio.sleep(body.get("ms", 50) / 1000)
    if "poison" in prompt:
        os.kill(os.getpid(), 9)
    outputs = body.get("structured_outputs")
    if outputs is not None and not VALID & outputs.keys():
        os._exit(0)
    if not body.get("stream"):
        return Response("you said: %s " % prompt * 10, media_type="text/plain", headers=worker)

    async def words():
        for i in range(10):
            yield "data: you said: %s \n\n" % prompt
            await asyncio.sleep(0.02)
        yield "data: [DONE]\n\n"

    return StreamingResponse(words(), media_type="text/event-stream", headers=worker)


@app.get("/exit")
async def leave():
    os._exit(0)


@app.websocket("/ws/echo")
async def ws_echo(socket: WebSocket):
    """Says who it is, then echoes until the client closes; notes how that was."""
    await socket.accept(subprotocol="echo" if "echo" in socket.scope["subprotocols"] else None, headers=[(b"x-engine", worker["X-Engine"].encode())])
    await socket.send_text("hello from %s" % worker["X-Engine"])
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                note("websocket closed %d" % message.get("code", 0))
                return
            if message.get("text", "").startswith("close "):
                await socket.close(int(message["text"][6:]))
                note("websocket closed by the application")
                return
            if message.get("text", "").startswith("send "):
                await socket.send_bytes(hashlib.shake_128(message["text"].encode()).digest(int(message["text"][5:])))
            elif message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
            else:
                await socket.send_text(message["text"])
    except Exception as e:
        note("websocket broke: %r" % e)


@app.websocket("/ws/refuse")
async def ws_refuse(socket: WebSocket):
    await socket.close(4000)  # before it was accepted: 403
