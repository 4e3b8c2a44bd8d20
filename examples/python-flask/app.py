"""The smallest Flask app, behind gunicorn."""

import os

from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello():
    release = os.environ.get("INSULA_RELEASE", "no release")
    return f"Hello from Flask, {release}\n", {"Content-Type": "text/plain; charset=utf-8"}


@app.get("/healthz")
def healthz():
    return "ok\n"
