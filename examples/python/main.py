"""A web app of nothing but the standard library."""

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8080"))
RELEASE = os.environ.get("INSULA_RELEASE", "no release")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/":
            self.answer(200, f"Hello from Python, {RELEASE}\n")
        elif path == "/healthz":
            self.answer(200, "ok\n")
        else:
            self.answer(404, "nothing here\n")

    do_HEAD = do_GET

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format, *args):
        print(format % args, flush=True)


class Server(ThreadingHTTPServer):
    # Closing waits for the requests that have begun.
    daemon_threads = False
    # The library's five are fewer than a browser or two open at once.
    request_queue_size = 128


def main():
    server = Server(("0.0.0.0", PORT), Handler)
    # `shutdown` waits for `serve_forever`, which runs in the thread that takes the signal.
    signal.signal(
        signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start()
    )
    print(f"listening on port {PORT}, {RELEASE}", flush=True)
    server.serve_forever()
    server.server_close()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
