//! The servers of the fleet that this node knows, the one to try first in front, kept on disk.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_kit::files::{self, Access};
use serde::{Deserialize, Serialize};

use crate::error::chain;

/// A fleet has a handful; what says more is not a server of ours.
const SERVERS_MAX: usize = 64;
/// A DNS name and a port.
const ADDRESS_LEN_MAX: usize = 260;

/// Clones share the list.
#[derive(Debug, Clone)]
pub struct Servers {
    file: Option<PathBuf>,
    /// By the operator: tried whatever the fleet says, for it may have said so before they came.
    named: Arc<[String]>,
    list: Arc<Mutex<Vec<String>>>,
    /// Those in the file: whoever starts next without a name knows these.
    kept: Arc<Mutex<Vec<String>>>,
}

/// `servers.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    servers: Vec<String>,
}

impl Servers {
    /// Those that the operator names come first, then those that the fleet named the last time.
    pub fn open(file: PathBuf, named: &[String]) -> Self {
        let kept: Kept = files::read_json(&file).unwrap_or_default();
        let list = Arc::new(Mutex::new(merged(named.iter().chain(&kept.servers))));
        let kept = Arc::new(Mutex::new(kept.servers));
        Self { file: Some(file), named: named.into(), list, kept }
    }

    #[cfg(test)]
    pub fn of(list: &[&str]) -> Self {
        let list = list.iter().map(|it| (*it).to_owned()).collect();
        let list = Arc::new(Mutex::new(list));
        Self { file: None, named: Arc::default(), list, kept: Arc::default() }
    }

    pub fn all(&self) -> Vec<String> {
        lock(&self.list).clone()
    }

    /// What the fleet says now counts, and after it what the operator says. An empty list is a
    /// mistake, and forgets nobody.
    pub fn learn(&self, said: &[String]) {
        let said = merged(said.iter());
        if said.is_empty() {
            return;
        }
        let mut list = lock(&self.list);
        let learnt = update(&list, &merged(said.iter().chain(self.named.iter())));
        if learnt != *list {
            tracing::info!(servers = learnt.join(","), "the servers of the fleet");
            list.clone_from(&learnt);
        }
        drop(list);
        self.keep(learnt);
    }

    /// On disk, unless the same ones are there: what the operator named need not be named again.
    fn keep(&self, servers: Vec<String>) {
        let Some(file) = &self.file else { return };
        let mut kept = lock(&self.kept);
        let is_kept = kept.len() == servers.len() && servers.iter().all(|it| kept.contains(it));
        if is_kept {
            return;
        }
        let servers = Kept { servers };
        match files::write_json(file, &servers, Access::Private) {
            Ok(()) => *kept = servers.servers,
            Err(error) => tracing::warn!(error = %chain(&error), "keep the list of servers"),
        }
    }

    /// This one answered: it is asked first from now on.
    pub fn prefer(&self, address: &str) {
        let mut list = lock(&self.list);
        if let Some(at) = list.iter().position(|it| it == address) {
            list[..=at].rotate_right(1);
        }
    }

    /// The first one did not do: the others come first.
    pub fn avoid_first(&self) {
        let mut list = lock(&self.list);
        if !list.is_empty() {
            list.rotate_left(1);
        }
    }
}

fn lock(list: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those that stay keep their order, so that nobody leaves a server that works.
fn update(held: &[String], said: &[String]) -> Vec<String> {
    let stay = held.iter().filter(|it| said.contains(it));
    merged(stay.chain(said))
}

fn merged<'a>(addresses: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut merged: Vec<String> = Vec::new();
    for address in addresses {
        let plausible = address.len() <= ADDRESS_LEN_MAX && is_address(address);
        if plausible && !merged.contains(address) && merged.len() < SERVERS_MAX {
            merged.push(address.clone());
        }
    }
    merged
}

/// Whether it reads as `host:port`, with brackets around an IPv6 address.
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_one = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let fits =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            !host.is_empty() && host.bytes().all(fits)
        }
    };
    host_is_one && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn the_list_is_learnt_kept_and_what_works_stays_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("servers.json");
        let servers = Servers::open(file.clone(), &list("a:1 nonsense b:1 a:1"));
        assert_eq!(servers.all(), list("a:1 b:1"));
        servers.prefer("b:1");
        servers.learn(&list("a:1 b:1 c:1 d:0 [::1]:7"));
        assert_eq!(servers.all(), list("b:1 a:1 c:1 [::1]:7"));
        servers.learn(&[]);
        assert_eq!(servers.all().len(), 4, "nobody is forgotten for nothing");
        servers.learn(&list("c:1 a:1"));
        assert_eq!(servers.all(), list("b:1 a:1 c:1"), "the operator named b");
        servers.avoid_first();
        assert_eq!(servers.all(), list("a:1 c:1 b:1"));
        let again = Servers::open(file, &list("new:1"));
        assert_eq!(again.all(), list("new:1 b:1 a:1 c:1"));
    }

    #[test]
    fn whom_the_operator_named_and_the_fleet_confirms_need_not_be_named_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("servers.json");
        let servers = Servers::open(file.clone(), &list("a:1"));
        assert!(!file.exists(), "nobody has said that it is one");
        servers.learn(&list("a:1"));
        assert_eq!(Servers::open(file.clone(), &[]).all(), list("a:1"));
        // Said again, and in another order of preference: the same servers.
        std::fs::remove_file(&file).unwrap();
        servers.learn(&list("a:1"));
        assert!(!file.exists(), "the disk is left in peace");
        servers.learn(&list("a:1 b:1"));
        assert_eq!(Servers::open(file, &[]).all(), list("a:1 b:1"));
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["a:1", "server-1.example.org:7443", "10.0.0.1:80", "[2001:db8::1]:443"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["a", "a:", ":1", "a:0", "a:70000", "http://a:1", "[::1]", "::1:5", "a b:1"] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
