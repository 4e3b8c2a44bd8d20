//! Listens where this host shows one instance of another node, and carries what comes there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_model::{EnvironmentId, InstanceId, NodeId};
use insula_relay::Caller;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::names::NameBoard;

/// Of one environment, to all other nodes: pools of a hundred instances with a dozen connections each.
const STREAMS_PER_ENVIRONMENT_MAX: usize = 1_024;
/// Of all together: two descriptors each, here and at the far end.
const STREAMS_MAX: usize = 8_192;
/// The kernel has no descriptor left; one that ends gives one back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What all doors share.
#[derive(Debug)]
pub struct Hall {
    pub caller: Caller,
    pub names: NameBoard,
    places: Arc<Semaphore>,
    by_environment: Mutex<BTreeMap<EnvironmentId, Arc<Semaphore>>>,
}

/// Who is behind a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    pub instance: InstanceId,
    pub environment: EnvironmentId,
    pub node: NodeId,
    pub relay: SocketAddr,
}

impl Hall {
    pub fn new(caller: Caller, names: NameBoard) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        Arc::new(Self { caller, names, places, by_environment: Mutex::default() })
    }

    /// Nothing when an environment, or all, have as many as they may.
    fn place(
        &self,
        environment: EnvironmentId,
    ) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let own = {
            let mut all = self.by_environment.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds a place of are forgotten.
            all.retain(|it, places| *it == environment || Arc::strong_count(places) > 1);
            let made = || Arc::new(Semaphore::new(STREAMS_PER_ENVIRONMENT_MAX));
            Arc::clone(all.entry(environment).or_insert_with(made))
        };
        Some((own.try_acquire_owned().ok()?, Arc::clone(&self.places).try_acquire_owned().ok()?))
    }

    /// The kernel lets nobody else come so far, if its rules are as we left them.
    fn is_own(&self, behind: &Behind, from: SocketAddr) -> bool {
        let source = self.names.source(from.ip().to_canonical());
        source.is_some_and(|it| it.environment == behind.environment && it.app.is_some())
    }
}

/// Until the end is asked for; what is carried then is broken off. `carried` counts the streams.
pub async fn keep(
    hall: Arc<Hall>,
    behind: Behind,
    listener: TcpListener,
    carried: Arc<AtomicUsize>,
    end: CancellationToken,
) {
    // Each is said once in a row: a client that tries again and again does not fill the log.
    let mut said = Said::Nothing;
    loop {
        let accepted = tokio::select! {
            () = end.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept a connection for an instance of another node");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !hall.is_own(&behind, from) {
            if said.is_news(Said::Stranger) {
                tracing::warn!(
                    %from, instance = %behind.instance, "refused a source of another environment"
                );
            }
            reset(tcp);
            continue;
        }
        let Some(place) = hall.place(behind.environment) else {
            if said.is_news(Said::Full) {
                let environment = behind.environment;
                tracing::warn!(%environment, "no more connections to instances of other nodes");
            }
            reset(tcp);
            continue;
        };
        said = Said::Nothing;
        let (hall, end) = (Arc::clone(&hall), end.clone());
        let counted = Counted::new(&carried);
        tokio::spawn(async move {
            let _held = (place, counted);
            tokio::select! {
                () = end.cancelled() => {}
                () = carry(&hall, behind, tcp) => {}
            }
        });
    }
}

async fn carry(hall: &Hall, behind: Behind, tcp: TcpStream) {
    let Behind { instance, node, relay, .. } = behind;
    let _ = tcp.set_nodelay(true);
    match Box::pin(hall.caller.open(node, relay, instance)).await {
        Ok(stream) => {
            // How it ended is the business of the two that talked.
            let _ = stream.join(tcp).await;
        }
        Err(error) => {
            tracing::debug!(error = %chain(&error), "open a stream to another node");
            reset(tcp);
        }
    }
}

/// Says at once that nobody is there, as the kernel does for a port that is closed.
fn reset(tcp: TcpStream) {
    let _ = tcp.set_zero_linger();
}

/// What a door last turned somebody away for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Stranger,
    Full,
}

impl Said {
    fn is_news(&mut self, it: Self) -> bool {
        std::mem::replace(self, it) != it
    }
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::Ipv4Addr;

    use futures_util::FutureExt;
    use insula_kit::clock::{Clock, SystemClock};
    use insula_kit::metrics::Metrics;
    use insula_kit::pki::Authority;
    use insula_relay::{CallCounts, CallerSettings};
    use tokio::io::AsyncReadExt;
    use tokio::sync::watch;

    use super::*;
    use crate::names::{Names, Presence, Tenant};

    const RED: EnvironmentId = EnvironmentId::from_u128(1);
    const BLUE: EnvironmentId = EnvironmentId::from_u128(2);
    const NODE: NodeId = NodeId::from_u128(1);

    fn hall() -> Arc<Hall> {
        let authority = Authority::generate(SystemClock.now_ms()).unwrap();
        let credentials = super::super::world::credentials(&authority, NODE);
        let caller =
            Caller::new(&credentials, CallerSettings::default(), CallCounts::new(&Metrics::new()));
        Hall::new(caller, NameBoard::new(watch::Sender::new(Names::default())))
    }

    /// Somebody flushed the kernel's rules: the listener is the second wall.
    #[tokio::test]
    async fn without_any_rules_of_the_kernel_strangers_are_refused_all_the_same() {
        let hall = hall();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        // Whoever came so far would wait for it to speak, and not be reset.
        let relay = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let behind = Behind {
            instance: InstanceId::from_u128(1),
            environment: RED,
            node: NODE,
            relay: relay.local_addr().unwrap(),
        };
        let end = CancellationToken::new();
        let _ended = end.clone().drop_guard();
        tokio::spawn(keep(Arc::clone(&hall), behind, listener, Arc::default(), end));
        let address = [127, 0, 0, 1].into();
        let app = Some("shop".parse().unwrap());
        let of =
            |environment, app| Presence { environment, app, address, serves: None, routed: false };
        // Nobody's address; another environment's; a build's of the same.
        for presence in [None, Some(of(BLUE, app.clone())), Some(of(RED, None))] {
            // The board names no loopback: what it holds is as if the address were nobody's.
            hall.names.set(Tenant::Instance(behind.instance), presence);
            let mut tcp = TcpStream::connect(at).await.unwrap();
            let error = tcp.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert!(relay.accept().now_or_never().is_none(), "nobody asks for what a stranger wants");
        let from = |last, environment, app| {
            let presence = Presence { address: [10, 87, 0, last].into(), ..of(environment, app) };
            let tenant = Tenant::Instance(InstanceId::from_u128(last.into()));
            hall.names.set(tenant, Some(presence));
            SocketAddr::from(([10, 87, 0, last], 40_000))
        };
        assert!(hall.is_own(&behind, from(2, RED, app.clone())));
        assert!(!hall.is_own(&behind, from(3, BLUE, app)));
        assert!(!hall.is_own(&behind, from(4, RED, None)), "a build has no neighbours");
        let mapped: SocketAddr = "[::ffff:10.87.0.2]:1".parse().unwrap();
        assert!(hall.is_own(&behind, mapped));
    }

    #[tokio::test]
    async fn one_environment_cannot_take_the_streams_of_others() {
        let hall = hall();
        let held: Vec<_> =
            (0..STREAMS_PER_ENVIRONMENT_MAX).map(|_| hall.place(RED).unwrap()).collect();
        assert!(hall.place(RED).is_none());
        assert!(hall.place(BLUE).is_some());
        drop(held);
        assert!(hall.place(RED).is_some());
        drop(hall.place(BLUE));
        assert_eq!(hall.by_environment.lock().unwrap().len(), 1, "who is gone is forgotten");
    }
}
