"""Ship's drain contract for gunicorn, the WSGI server. Copy it beside gunicorn.conf.py and write there:

    from drain import pre_request, keepalive

WSGI itself forbids an application to set `Connection` (PEP 3333, hop-by-hop headers), and gunicorn drops it. What works is
a hook of the server: while SHIP_DRAIN_FILE exists, gunicorn itself closes each connection after its answer and says so
beforehand. It works with the workers that keep connections (gthread, gevent, eventlet); `sync` never keeps any. Other WSGI
servers have no such hook: put them behind a balancer that retries, or let them keep no connections.

`keepalive` is long, since its end is a cut as well: a request may be on its way when the server closes an idle connection.
"""
import os
import time

keepalive = 75

_file = os.environ.get("SHIP_DRAIN_FILE")
_looked, _there = 0.0, False


def draining():
    """Whether the drain is on; looks at most once every 100 ms."""
    global _looked, _there
    now = time.monotonic()
    if _file and now - _looked >= 0.1:
        _looked, _there = now, os.path.exists(_file)
    return _there


def pre_request(worker, req):
    worker.log.debug("%s %s", req.method, req.path)
    if draining():
        req.force_close()
