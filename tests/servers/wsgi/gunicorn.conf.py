import os
import sys

sys.path.insert(0, os.getcwd())
from drain import keepalive, pre_request  # noqa: E402, F401

worker_class = "gthread"
workers = 2
threads = 16
graceful_timeout = 20
