//! Gives the node's names to its resolver: two crates that do not know each other meet here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use insula_agent::Names;
use insula_discovery::{Asker, Config, Resolver, Zone};
use insula_kit::random::SystemRandom;
use insula_kit::shutdown::Shutdown;
use tokio::sync::watch;
use tracing::{info, warn};

const DNS_PORT: u16 = 53;
/// The agent makes the address that the resolver listens on; it may not be there yet.
const BIND_PAUSE: Duration = Duration::from_millis(100);
/// Tries before it is said that something is wrong.
const BIND_QUIET_TRIES: u32 = 50;

/// Answers for the node's names until the end is asked for.
pub async fn run(address: Ipv4Addr, mut names: watch::Receiver<Names>, shutdown: Shutdown) {
    let (sender, zone) = watch::channel(Arc::new(zone_of(&names.borrow_and_update())));
    let serving = tokio::spawn(serve(address, zone, shutdown.clone()));
    loop {
        tokio::select! {
            _ = shutdown.requested() => break,
            changed = names.changed() => match changed {
                Ok(()) => drop(sender.send_replace(Arc::new(zone_of(&names.borrow_and_update())))),
                // The agent has ended; what it said last stays true until we do too.
                Err(_) => break,
            },
        }
    }
    // It hears the same shutdown.
    let _ = serving.await;
}

async fn serve(address: Ipv4Addr, zone: watch::Receiver<Arc<Zone>>, shutdown: Shutdown) {
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let upstreams = insula_discovery::upstreams(&host, &[IpAddr::V4(address)]);
    let listen = vec![SocketAddr::from((address, DNS_PORT))];
    let mut tries = 0;
    let resolver = loop {
        let config = Config { listen: listen.clone(), upstreams: upstreams.clone() };
        match Resolver::bind(config, zone.clone(), Arc::new(SystemRandom::new())).await {
            Ok(resolver) => break resolver,
            Err(error) => {
                tries += 1;
                if tries == BIND_QUIET_TRIES {
                    warn!(error = &error as &dyn std::error::Error, "no names for apps yet");
                }
            }
        }
        tokio::select! {
            _ = shutdown.requested() => return,
            () = tokio::time::sleep(BIND_PAUSE) => {}
        }
    };
    info!(%address, "resolving names");
    resolver.run(shutdown).await;
}

fn zone_of(names: &Names) -> Zone {
    let mut zone = Zone::default();
    for (address, source) in &names.sources {
        let IpAddr::V4(address) = address else { continue };
        let asker = match &source.app {
            Some(app) => Asker::Instance { environment: source.environment, app: app.clone() },
            None => Asker::Build,
        };
        zone.askers.insert(*address, asker);
    }
    for (environment, services) in &names.environments {
        let apps = zone.environments.entry(*environment).or_default();
        for (service, addresses) in services {
            let app = apps.entry(service.app.clone()).or_default();
            let known = app.components.entry(service.component.clone()).or_default();
            known.extend(addresses.iter().filter_map(|a| match a.ip() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }));
            // An app's own name stands for its web component, else for the only one it has.
            let alone = app.components.len() == 1;
            if service.component.as_str() == "web" || (alone && app.front.is_none()) {
                app.front = Some(service.component.clone());
            } else if app.front.as_ref().is_some_and(|front| front.as_str() != "web") {
                app.front = None;
            }
        }
    }
    zone
}
