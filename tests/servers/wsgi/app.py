"""The app under test on a WSGI server: pages and streams."""
import os
import sys
import time
from urllib.parse import parse_qs



def told(name, variable):
    """A process that lives on through releases keeps its environment: what is new stands in its folder."""
    if os.path.exists(name):
        with open(name) as file:
            return file.read()
    return os.environ.get(variable, "")


BROKEN = told("broken", "BROKEN")
HEADERS = [("x-release", told("release", "SHIP_RELEASE")), ("content-type", "text/plain")]
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
