//! Folders to deploy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

/// A folder with these files.
pub fn with(files: &[(&str, &str)]) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for (path, text) in files {
        write(folder.path(), path, text)?;
    }
    Ok(folder)
}

pub fn write(folder: &Path, path: &str, text: &str) -> Result<()> {
    let to = folder.join(path);
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(to, text)?;
    Ok(())
}

/// A folder of the repository.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// A Python service that says `text`, ready when it listens.
pub fn python(text: &str) -> Result<TempDir> {
    let source = PYTHON.replace("@TEXT@", text);
    with(&[("main.py", &source), ("Procfile", "web: exec python3 main.py\n")])
}

const PYTHON: &str = r#"import http.server, os, signal, sys, threading

class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        body = b"@TEXT@\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Hello)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("serving", flush=True)
server.serve_forever()
"#;
