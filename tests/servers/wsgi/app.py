"""The app under test on a WSGI server: pages and streams."""
import os
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs

BROKEN = os.environ.get("BROKEN")
# Without Ship, as in the benches, a release says itself which it is.
RELEASE = os.environ.get("SHIP_RELEASE") or Path(__file__).with_name("release").read_text(encoding="ascii")
HEADERS = [("x-release", RELEASE), ("content-type", "text/plain")]
if BROKEN == "exit":
    sys.exit("this release cannot start")


def stream(seconds):
    for _ in range(int(seconds * 10)):
        yield b"a piece\n"
        time.sleep(0.1)
    yield b"the end\n"


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", HEADERS)
        return stream(float(parse_qs(environ["QUERY_STRING"])["seconds"][0]))
    sick = path == "/healthz" and BROKEN == "sick"
    start_response("500 Sick" if sick else "200 OK", [*HEADERS, ("content-length", "3")])
    return [b"ok\n"]
