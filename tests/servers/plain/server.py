"""A server that knows no hot restart at all: binds by itself, answers slowly, and cuts what is under way when it is stopped.

The standard library's own, with a page, a health check and WebSockets' handshake.
"""
import base64
import hashlib
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RELEASE = os.environ["SHIP_RELEASE"]
HERE = os.path.dirname(os.path.abspath(__file__))
ADDRESS = json.load(open(os.path.join(HERE, "addresses.json"), encoding="utf-8"))[os.environ["SHIP_HOST"]]
SICK = os.path.exists(os.path.join(HERE, "sick"))
WAITS = os.path.join(HERE, "waits")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/ws" and self.headers.get("Upgrade", "").lower() == "websocket":
            return self.upgrade()
        if self.path != "/healthz":
            time.sleep(0.05)
        body = b"ok\n"
        self.send_response(500 if SICK and self.path == "/healthz" else 200)
        self.send_header("x-release", RELEASE)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def upgrade(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("connection", "upgrade")
        self.send_header("upgrade", "websocket")
        self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


while os.path.exists(WAITS) and not os.path.exists(open(WAITS, encoding="utf-8").read()):
    time.sleep(0.02)
Server((ADDRESS, int(sys.argv[1])), Handler).serve_forever()
