//! Where a node's relay listens: by which address of this machine others reach it.
//!
//! Who joins a fleet is reached by the address with which it reaches the fleet's servers, unless
//! the operator says otherwise. The machine's routes say which one that is; nothing is sent. It is
//! kept, for a start at which there is no network yet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use insula_agent::{Endpoint, RelayAccess};
use insula_kit::files::{self, Access};

use crate::data::Data;

/// Of a relay, where nobody says otherwise.
pub const PORT: u16 = 7444;

pub fn access(
    data: &Data,
    listen: Option<SocketAddr>,
    advertise: Option<SocketAddr>,
    server: &Endpoint,
) -> anyhow::Result<RelayAccess> {
    let listen = match (listen, server) {
        (Some(listen), _) => Some(listen),
        // Nobody is elsewhere, or whoever started us says where.
        (None, Endpoint::Unix(_)) => None,
        (None, Endpoint::Fleet { servers, .. }) => Some(learnt(&kept(data.root()), servers)?),
    };
    if let (Some(relay), None) = (listen, advertise)
        && relay.ip().is_unspecified()
    {
        bail!(
            "--relay {relay} is every address of this machine: say with --advertise which one others reach"
        );
    }
    Ok(RelayAccess { listen, advertise })
}

fn kept(data: &Path) -> PathBuf {
    data.join("agent").join("relay")
}

/// The way to the servers as it is now, else as it was.
fn learnt(kept: &Path, servers: &[String]) -> anyhow::Result<SocketAddr> {
    if let Some(ip) = servers.iter().find_map(|server| way_to(server)) {
        let address = SocketAddr::new(ip, PORT);
        if let Some(folder) = kept.parent() {
            files::create_private_folder(folder)?;
        }
        files::write_durably(kept, format!("{address}\n").as_bytes(), Access::Private)?;
        return Ok(address);
    }
    let before = std::fs::read_to_string(kept).ok();
    before.and_then(|text| text.trim().parse().ok()).with_context(|| {
        format!(
            "no route leads from this machine to {}, so its own address is not known: \
             say with --relay ADDR:{PORT} where others reach what runs here",
            if servers.is_empty() { "a server".to_owned() } else { servers.join(", ") }
        )
    })
}

/// The address from which this machine would speak to a server.
fn way_to(server: &str) -> Option<IpAddr> {
    let mut addresses = server.to_socket_addrs().ok()?;
    addresses.find_map(|to| {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        // Of a datagram's socket this only looks up the route.
        socket.connect(to).ok()?;
        let own = socket.local_addr().ok()?.ip();
        (!own.is_unspecified()).then_some(own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(server: &str) -> Vec<String> {
        vec![server.to_owned()]
    }

    #[test]
    fn who_joins_is_reached_by_the_address_with_which_it_reaches_the_servers() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(folder.path());
        let found = learnt(&kept, &named("127.0.0.1:7443")).unwrap();
        assert_eq!(found, SocketAddr::from(([127, 0, 0, 1], PORT)));
        // Later, when no server is named or none has a route.
        assert_eq!(learnt(&kept, &[]).unwrap(), found);
        assert_eq!(learnt(&kept, &named("not an address")).unwrap(), found);
    }

    #[test]
    fn without_a_way_the_operator_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let said = learnt(&kept(folder.path()), &named("nowhere")).unwrap_err().to_string();
        assert!(said.contains("nowhere") && said.contains("--relay ADDR:7444"), "{said}");
    }
}
