"""Does something every second until it is told to stop."""

import itertools
import signal
import threading

stop = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stop.set())

for tick in itertools.count(1):
    print(f"tick {tick}", flush=True)
    if stop.wait(timeout=1.0):
        break
print("stopped", flush=True)
