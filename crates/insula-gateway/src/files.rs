//! The file server that runs inside a sandbox as the app of a static component.
//!
//! One thread, little memory, no cache beside the kernel's. Serves the regular files of one folder
//! and nothing else: no listings, no dotfiles, nothing outside. It stands behind the gateway, so
//! compression on the fly, certificates and access logs are not its business.

mod answer;
mod conditional;
mod kind;
mod open;
mod path;

use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use insula_kit::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use answer::Site;

/// At about 30 KB each while they read, 15 MB: a quarter of what the sandbox allows.
const CONNECTIONS_MAX: usize = 512;
/// What hyper keeps of a connection: a head of 8 KiB, or what is being written.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// The gateway keeps a connection for a minute; it should be the one who closes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// A sandbox is killed after 30 s, unless its app says otherwise.
const DRAIN: Duration = Duration::from_secs(10);
/// When there is no descriptor left, one is not freed by asking at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("usage: static-server --root DIR --port PORT")]
    Usage,
    #[error("open the folder {}", path.display())]
    Root {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("listen on port {port}")]
    Listen {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("start the file server")]
    Start(#[source] io::Error),
}

#[derive(Debug, PartialEq, Eq)]
struct Settings {
    root: PathBuf,
    port: u16,
}

/// The whole process: arguments in, files out, until SIGTERM.
pub fn main() -> ExitCode {
    // Past the program's own name and that of this role.
    match Settings::parse(std::env::args().skip(2)).and_then(|settings| run(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = std::error::Error::source(&error);
            let cause = source.map(|source| format!(": {source}")).unwrap_or_default();
            eprintln!("{error}{cause}");
            ExitCode::FAILURE
        }
    }
}

impl Settings {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, FilesError> {
        let (mut root, mut port) = (None, None);
        while let Some(flag) = args.next() {
            let value = args.next().ok_or(FilesError::Usage)?;
            match flag.as_str() {
                "--root" => root = Some(PathBuf::from(value)),
                "--port" => port = Some(value.parse().map_err(|_| FilesError::Usage)?),
                _ => return Err(FilesError::Usage),
            }
        }
        let (Some(root), Some(port)) = (root, port) else { return Err(FilesError::Usage) };
        Ok(Self { root, port })
    }
}

fn run(settings: &Settings) -> Result<(), FilesError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(FilesError::Start)?;
    let listened = |source| FilesError::Listen { port: settings.port, source };
    let listener = StdListener::bind((Ipv4Addr::UNSPECIFIED, settings.port)).map_err(listened)?;
    LocalSet::new().block_on(&runtime, async {
        let shutdown = Shutdown::new();
        shutdown.listen_to_signals().map_err(FilesError::Start)?;
        serve(listener, &settings.root, shutdown).await
    })
}

/// Serves until the shutdown is requested and answers are out. Needs a `LocalSet` around it.
pub async fn serve(
    listener: StdListener,
    root: &Path,
    shutdown: Shutdown,
) -> Result<(), FilesError> {
    let site =
        Site::open(root).map_err(|source| FilesError::Root { path: root.to_owned(), source })?;
    let site = Rc::new(site);
    listener.set_nonblocking(true).map_err(FilesError::Start)?;
    let listener = TcpListener::from_std(listener).map_err(FilesError::Start)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            _ = shutdown.requested() => break,
            // Who finds no place waits in the backlog.
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (place, Ok((stream, _))) => {
                // A failure costs speed alone.
                let _ = stream.set_nodelay(true);
                let (site, shutdown) = (Rc::clone(&site), shutdown.clone());
                tokio::task::spawn_local(async move {
                    let _guard = shutdown.guard("connections");
                    connection(&site, stream, &shutdown).await;
                    drop(place);
                });
            }
            (_, Err(error)) => {
                eprintln!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if let Err(late) = shutdown.completed_within(DRAIN).await {
        eprintln!("{late}");
    }
    Ok(())
}

async fn connection(site: &Rc<Site>, stream: tokio::net::TcpStream, shutdown: &Shutdown) {
    let service = service_fn(|request| {
        let response = site.answer(&request);
        async { Ok::<_, std::convert::Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // Its errors are the other side's: it left.
    tokio::select! {
        _ = &mut connection => return,
        _ = shutdown.requested() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_arguments_are_needed_and_no_others() {
        let parse = |line: &str| Settings::parse(line.split_whitespace().map(str::to_owned)).ok();
        let settings = Settings { root: "/app".into(), port: 8080 };
        assert_eq!(parse("--root /app --port 8080"), Some(settings));
        for wrong in [
            "",
            "--root /app",
            "--port 80",
            "--root /app --port x",
            "--root",
            "--root a --port 1 --x y",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
