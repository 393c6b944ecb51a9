"""Streamlit's real front end, served as a user of Ship would: pages from the release, assets from the union.

The page is this release's; what it names is looked up in SHIP_ASSETS_DIR, where the fingerprinted assets of
every published release stand. While the generation drains, answers ask clients to come back elsewhere: by the
recipe of agent/drain, which lies beside this file as drain.py.
"""
import mimetypes
import os
from pathlib import Path

from drain import Drain

RELEASE = Path.cwd() / "streamlit" / "static"
UNION = Path(os.environ["SHIP_ASSETS_DIR"])


def find(path):
    name = path.lstrip("/") or "index.html"
    if ".." in name.split("/"):
        return None
    for root in (UNION, RELEASE):
        file = root / name
        if file.is_file():
            return file
    return None


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = [(b"x-release", os.environ.get("SHIP_RELEASE", "").encode())]
    if scope["path"] == "/healthz":
        status, body = 200, b"ok"
    else:
        file = find(scope["path"])
        status, body = (200, file.read_bytes()) if file else (404, b"not found")
        kind = mimetypes.guess_type(str(file))[0] or "application/octet-stream"
        headers.append((b"content-type", kind.encode()))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = Drain(app)
