//! The addresses that visitors come in by: taken before anything else is done, opened last.
//!
//! Taken is not open: nobody waits behind a door of a gateway that is not there yet. Whoever cannot
//! have an address learns it before a token to join with is used up; and a port below 1024 is all
//! that root is needed for, so what comes between the two need not be root any more.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::run::GatewayError;

/// Connections that may wait for a thread; the kernel cuts it to its own limit.
const BACKLOG: i32 = 1_024;

/// Every thread has one of its own on every address: the kernel spreads the visitors.
#[derive(Debug)]
pub struct Doors {
    addresses: Vec<SocketAddr>,
    of_threads: Vec<Vec<OwnedFd>>,
}

impl Doors {
    /// As many threads as there are cores, if nobody says.
    pub fn take(asked: &[SocketAddr], threads: Option<usize>) -> Result<Self, GatewayError> {
        if asked.is_empty() {
            return Err(GatewayError::NoAddress);
        }
        let cores = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = threads.unwrap_or_else(cores).max(1);
        let mut addresses = Vec::new();
        let mut of_threads: Vec<Vec<OwnedFd>> = (0..threads).map(|_| Vec::new()).collect();
        for asked in asked {
            let mut address = *asked;
            for doors in &mut of_threads {
                let failed = |source| GatewayError::Listen { address: *asked, source };
                // The first one finds the port, if none was given; the others share it.
                let (door, found) = bind(address).map_err(failed)?;
                address = found;
                doors.push(door);
            }
            addresses.push(address);
        }
        Ok(Self { addresses, of_threads })
    }

    /// As bound: a port of 0 was replaced by one that was free.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn threads(&self) -> usize {
        self.of_threads.len()
    }

    /// For each thread its own.
    pub(crate) fn open(self) -> Result<Vec<Vec<TcpListener>>, GatewayError> {
        let addresses = &self.addresses;
        let open = |(door, address): (OwnedFd, &SocketAddr)| {
            let opened = rustix::net::listen(&door, BACKLOG);
            opened.map_err(|error| GatewayError::Listen {
                address: *address,
                source: error.into(),
            })?;
            Ok(TcpListener::from(door))
        };
        let of_thread = |doors: Vec<OwnedFd>| doors.into_iter().zip(addresses).map(open).collect();
        self.of_threads.into_iter().map(of_thread).collect()
    }
}

fn bind(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    let bound = rustix::net::getsockname(&socket)?.try_into()?;
    Ok((socket, bound))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn what_somebody_else_has_is_refused_before_anything_else() {
        let other = TcpListener::bind(ANY).unwrap();
        let address = other.local_addr().unwrap();
        let refused = Doors::take(&[ANY, address], Some(2)).unwrap_err();
        assert_eq!(refused.to_string(), format!("listen on {address}"));
        assert!(matches!(Doors::take(&[], None), Err(GatewayError::NoAddress)));
    }

    #[test]
    fn nobody_waits_behind_a_door_before_it_is_opened() {
        let doors = Doors::take(&[ANY, ANY], Some(3)).unwrap();
        let addresses = doors.addresses().to_vec();
        assert_eq!((addresses.len(), doors.threads()), (2, 3));
        for address in &addresses {
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
        let opened = doors.open().unwrap();
        assert_eq!(opened.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
        for address in &addresses {
            TcpStream::connect(address).unwrap();
        }
    }
}
