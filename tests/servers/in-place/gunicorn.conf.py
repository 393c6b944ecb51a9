import os
import sys

chdir = os.environ["CURRENT"]
sys.path.insert(0, chdir)
from drain import keepalive, pre_request  # noqa: E402, F401

bind = os.environ["ADDR"]
pidfile = os.path.join(os.environ["SHIP_RUN_DIR"], "gunicorn.pid")
worker_class = "gthread"
workers = 2
threads = 16
graceful_timeout = 20
