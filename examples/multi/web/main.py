"""Shows when the worker last called. Its style comes from the static component."""

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Three components</title>
<link rel="stylesheet" href="/assets/style.css">
<h1>{text}</h1>
</html>
"""


class Beats:
    """How often the worker has called, and when it did last."""

    def __init__(self):
        self.lock = threading.Lock()
        self.count = 0
        self.last = None

    def take(self):
        with self.lock:
            self.count += 1
            self.last = time.monotonic()
            return self.count

    def text(self):
        with self.lock:
            if self.last is None:
                return "The worker has not called"
            ago = time.monotonic() - self.last
            return f"{self.count} beats, the last one {ago:.1f} s ago"


BEATS = Beats()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/":
            self.answer(200, "text/html", PAGE.format(text=BEATS.text()))
        elif self.path == "/healthz":
            self.answer(200, "text/plain", "ok\n")
        else:
            self.answer(404, "text/plain", "nothing here\n")

    def do_POST(self):
        if self.path == "/beat":
            self.answer(200, "text/plain", f"{BEATS.take()}\n")
        else:
            self.answer(404, "text/plain", "nothing here\n")

    def answer(self, status, kind, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        print(format % args, flush=True)


class Server(ThreadingHTTPServer):
    # Closing waits for the requests that have begun.
    daemon_threads = False
    # The library's five are fewer than a browser or two open at once.
    request_queue_size = 128


server = Server(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("listening", flush=True)
server.serve_forever()
server.server_close()
