//! Gives the fleet's port a thread of its own.
//!
//! A heartbeat is a few microseconds of work on its connection and its session. Where several
//! workers share that work they steal it from each other, wake each other for it and wait for the
//! connection's lock: a third of what the heartbeats of ten thousand nodes cost. On one thread they
//! take turns, and neither the API nor the reconcilers hold them up. One thread is enough for as
//! many nodes as a server takes.

use std::io;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::gather::Pace;
use crate::requests::Requests;
use crate::serve::{self, Fleet, ServeError};

/// As `serve::fleet`. Whoever lets go of this ends it, too.
pub async fn fleet(
    fleet: Fleet,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let listener = listener.into_std().map_err(ServeError::Thread)?;
    let (go_on, stopped) = oneshot::channel::<()>();
    let (tell, mut told) = oneshot::channel();
    let work = move || {
        let served = serve_here(fleet, listener, stopped);
        // Nobody listens any more: then nobody wants to know.
        let _ = tell.send(served);
    };
    std::thread::Builder::new().name("fleet".into()).spawn(work).map_err(ServeError::Thread)?;
    let ended = tokio::select! {
        ended = &mut told => ended,
        () = stop => {
            drop(go_on);
            told.await
        }
    };
    ended.unwrap_or_else(|_| Err(ServeError::Thread(io::Error::other("it panicked"))))
}

fn serve_here(
    fleet: Fleet,
    listener: std::net::TcpListener,
    stopped: oneshot::Receiver<()>,
) -> Result<(), ServeError> {
    let requests = Requests::default();
    let (hub, asked, pace) = (fleet.hub.clone(), requests.asked().clone(), Pace::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || pace.rest(hub.said(), &asked))
        .build();
    runtime.map_err(ServeError::Thread)?.block_on(async {
        let listener = TcpListener::from_std(listener).map_err(ServeError::Thread)?;
        serve::fleet(fleet, requests, listener, async { drop(stopped.await) }).await
    })
}
