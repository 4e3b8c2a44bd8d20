"""Calls the web component once a second, by the name it has in this environment."""

import os
import signal
import threading
from urllib.error import URLError
from urllib.request import Request, urlopen

URL = os.environ["WEB_URL"] + "/beat"

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())

while not stop.is_set():
    try:
        with urlopen(Request(URL, method="POST"), timeout=2.0) as answer:
            print(f"beat {answer.read().decode().strip()}", flush=True)
    except (URLError, OSError) as error:
        # The other side may be starting, or between two releases.
        print(f"no answer from {URL}: {error}", flush=True)
    stop.wait(timeout=1.0)
