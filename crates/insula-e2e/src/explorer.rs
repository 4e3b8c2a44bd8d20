//! An app that tries what it is asked to try, from inside its sandbox.
//!
//! `/env` `/read?PATH` `/list?PATH` `/tcp?ADDRESS:PORT` `/udp?ADDRESS:PORT` `/name?NAME` `/fetch?URL`: each answers with
//! one line that begins with `ok` or with `no` and the reason.

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::app::App;
use crate::folder;
use crate::http::Answer;

pub fn folder() -> Result<TempDir> {
    folder::with(&[("main.py", SOURCE), ("Procfile", "web: exec python3 main.py\n")])
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    Done(String),
    Failed(String),
}

impl Tried {
    pub fn failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Done(text) | Self::Failed(text) => text,
        }
    }
}

/// Has the app try something.
pub fn attempt(app: &App<'_>, what: &str, argument: &str) -> Result<Tried> {
    let answer = app.visit(&format!("/{what}?{argument}"))?;
    read(&answer).with_context(|| format!("ask {} for {what} {argument}", app.url))
}

/// What an explorer's answer says.
pub fn read(answer: &Answer) -> Result<Tried> {
    let text = answer.text();
    match (answer.status, text.split_once(' ')) {
        (200, Some(("ok", rest))) => Ok(Tried::Done(rest.trim_end().to_owned())),
        (200, Some(("no", rest))) => Ok(Tried::Failed(rest.trim_end().to_owned())),
        (status, _) => bail!("not an explorer's answer: {status} {text}"),
    }
}

const SOURCE: &str = r#"import http.server, json, os, signal, socket, threading, urllib.parse, urllib.request

TRY_SECONDS = 3

def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)

def tcp(text):
    with socket.create_connection(address(text), TRY_SECONDS) as s:
        s.settimeout(0.5)
        try:
            return repr(s.recv(100))
        except TimeoutError:
            return "connected"

def udp(text):
    host, port = address(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        s.connect((host, port))
        s.send(b"\0" * 12)
        return repr(s.recv(100))

def fetch(text):
    with urllib.request.urlopen(text, timeout=TRY_SECONDS) as answer:
        return answer.read(10000).decode(errors="replace")

def read(text):
    with open(text, "rb") as file:
        return repr(file.read(4096))

TRIES = {
    "/env": lambda _: json.dumps(dict(os.environ)),
    "/read": read,
    "/list": lambda text: json.dumps(sorted(os.listdir(text))),
    "/tcp": tcp,
    "/udp": udp,
    "/name": lambda text: socket.gethostbyname(text),
    "/fetch": fetch,
    "/addresses": lambda _: json.dumps(
        sorted({l.split()[-1] for l in os.popen("ip -4 -o addr show scope global 2>/dev/null")})),
    "/log": lambda text: print(text, flush=True) or "said",
    "/eat": lambda text: len([bytearray(1 << 20) for _ in range(int(text))]),
    "/exit": lambda text: os._exit(int(text)),
}

class Explorer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        argument = urllib.parse.unquote(url.query)
        try:
            if url.path in TRIES:
                text = f"ok {TRIES[url.path](argument)}\n"
            else:
                text = "ok here\n"
        except Exception as error:
            text = f"no {type(error).__name__} {error}\n"
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Explorer)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("exploring", flush=True)
server.serve_forever()
"#;
