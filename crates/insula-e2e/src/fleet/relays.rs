//! Somebody who calls the relay of a node with a member's real credentials, from a place on the
//! ground: what an agent or a gateway would ask, and what whoever stole its folder would.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use insula_kit::clock::SystemClock;
use insula_kit::metrics::Metrics;
use insula_kit::tls::Credentials;
use insula_model::{InstanceId, NodeId};
use insula_relay::{CallCounts, Caller, CallerSettings, OpenError, RelayStream};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use super::RELAY_PORT;
use super::ground::Place;
use super::impostor::identity;

/// An instance, and the node whose relay leads to it.
#[derive(Debug, Clone)]
pub struct Goal {
    pub node: NodeId,
    pub relay: SocketAddr,
    pub instance: InstanceId,
}

/// Where somebody stands, and whose credentials it shows.
#[derive(Debug, Clone)]
pub struct Dialler {
    place: Place,
    credentials: std::sync::Arc<Credentials>,
}

/// A stream that was opened, and that nobody says anything on.
#[derive(Debug)]
pub struct Held {
    release: Option<oneshot::Sender<()>>,
    ended: mpsc::Receiver<Instant>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Goal {
    /// Of the relay in that place.
    pub fn new(node: &str, place: &Place, instance: &str) -> Result<Self> {
        Ok(Self {
            node: node.parse().map_err(|error| anyhow!("{node}: {error}"))?,
            relay: place.at(RELAY_PORT),
            instance: instance.parse().map_err(|error| anyhow!("{instance}: {error}"))?,
        })
    }
}

impl Dialler {
    /// With what this file holds now; it may be removed afterwards.
    pub fn new(place: &Place, credentials: &Path) -> Result<Self> {
        let credentials =
            Credentials::new(&identity(credentials)?, std::sync::Arc::new(SystemClock))?;
        Ok(Self { place: place.clone(), credentials })
    }

    /// Asks for a stream, over a connection of its own: with a handshake, and with nothing that was
    /// found out before. The outer error is of who asks, the inner one of who was asked.
    pub fn open(&self, goal: &Goal) -> Result<Result<(), OpenError>> {
        self.place.inside(|| Ok(runtime()?.block_on(self.ask(goal)).map(drop)))
    }

    /// Opens a stream and holds it until it ends or is dropped.
    pub fn hold(&self, goal: &Goal) -> Result<Held> {
        let (release, released) = oneshot::channel();
        let (opens, opened) = mpsc::channel();
        let (ends, ended) = mpsc::channel();
        let (this, goal) = (self.clone(), goal.clone());
        let hold = async move {
            let (_caller, mut stream) = this.ask(&goal).await?;
            // Who waits for it is there.
            let _ = opens.send(());
            let mut byte = [0];
            tokio::select! {
                // Nobody was asked for anything: whatever is read is an end.
                _ = stream.read(&mut byte) => { let _ = ends.send(Instant::now()); }
                _ = released => {}
            }
            Ok(())
        };
        let place = self.place.clone();
        let thread = std::thread::spawn(move || place.inside(|| runtime()?.block_on(hold)));
        if opened.recv().is_err() {
            let failed = thread.join().map_err(|_| anyhow!("who holds a stream panicked"))?;
            return Err(failed.err().unwrap_or_else(|| anyhow!("it did not say that it is open")));
        }
        Ok(Held { release: Some(release), ended, thread: Some(thread) })
    }

    async fn ask(&self, goal: &Goal) -> Result<(Caller, RelayStream), OpenError> {
        let counts = CallCounts::new(&Metrics::new());
        let caller = Caller::new(&self.credentials, CallerSettings::default(), counts);
        let stream = caller.open(goal.node, goal.relay, goal.instance).await?;
        Ok((caller, stream))
    }
}

impl Held {
    /// When the other side ended it, if it does by then.
    pub fn ended_within(&self, within: Duration) -> Result<Instant> {
        self.ended.recv_timeout(within).context("the stream is open still")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("who holds a stream panicked");
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("make a runtime")
}
