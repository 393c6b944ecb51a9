"""The app under test on an ASGI server: pages, streams, WebSockets that echo."""
import asyncio
import os
import sys
from pathlib import Path
from urllib.parse import parse_qs

from drain import Drain

BROKEN = os.environ.get("BROKEN")
# Without Ship, as in the benches, a release says itself which it is.
RELEASE = os.environ.get("SHIP_RELEASE") or Path(__file__).with_name("release").read_text(encoding="ascii")
HEADERS = [(b"x-release", RELEASE.encode()), (b"content-type", b"text/plain")]
if BROKEN == "exit":
    sys.exit("this release cannot start")


async def http(scope, send):
    path = scope["path"]
    if path == "/stream":
        seconds = float(parse_qs(scope["query_string"].decode())["seconds"][0])
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        for _ in range(int(seconds * 10)):
            await send({"type": "http.response.body", "body": b"a piece\n", "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"the end\n"})
        return
    status = 500 if path == "/healthz" and BROKEN == "sick" else 200
    await send({"type": "http.response.start", "status": status, "headers": [*HEADERS, (b"content-length", b"3")]})
    await send({"type": "http.response.body", "body": b"ok\n"})


async def websocket(receive, send):
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept", "headers": HEADERS[:1]})
        elif message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            return


async def app(scope, receive, send):
    if scope["type"] == "http":
        await http(scope, send)
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    else:
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return


if not os.environ.get("PLAIN"):
    app = Drain(app, spread=0.5)
