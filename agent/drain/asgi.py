"""Ship's drain contract for ASGI (uvicorn, hypercorn, daphne, ...): `app = Drain(app)`.

Copy this file into the application. While SHIP_DRAIN_FILE exists, every answer over HTTP/1 carries `Connection: close`,
and every WebSocket is closed with 1001 at a moment of its own within `spread` seconds. Nothing is cut. Outside of Ship it
does nothing.
"""
import asyncio
import os
import random


class Drain:
    def __init__(self, app, spread=5.0, file=os.environ.get("SHIP_DRAIN_FILE")):
        self.app, self.spread, self.file = app, spread, file
        self.watcher, self.draining = None, asyncio.Event()

    async def __call__(self, scope, receive, send):
        if self.file and self.watcher is None:
            self.watcher = asyncio.create_task(self.watch())
        if scope["type"] == "websocket":
            await self.socket(scope, receive, send)
        elif scope["type"] == "http" and scope.get("http_version", "1.1").startswith("1"):
            await self.app(scope, receive, self.closing(send))
        else:
            await self.app(scope, receive, send)

    async def watch(self):
        # One look per process every 100 ms, not one per request. The file may go away again: then all is as before.
        while True:
            (self.draining.set if os.path.exists(self.file) else self.draining.clear)()
            await asyncio.sleep(0.1)

    def closing(self, send):
        async def answer(message):
            if message["type"] == "http.response.start" and self.draining.is_set():
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        return answer

    async def socket(self, scope, receive, send):
        state = "new"

        async def say(message):
            nonlocal state
            if state == "closed":
                return  # the application has not noticed yet; its next receive() tells it
            state = {"websocket.accept": "open", "websocket.close": "closed"}.get(message["type"], state)
            await send(message)

        async def leave():
            while state != "closed":
                await self.draining.wait()
                await asyncio.sleep(random.uniform(0.05, self.spread))
                if state == "open" and self.draining.is_set():
                    await say({"type": "websocket.close", "code": 1001, "reason": "please come back"})

        leaving = asyncio.create_task(leave())
        try:
            await self.app(scope, receive, say)
        finally:
            leaving.cancel()
