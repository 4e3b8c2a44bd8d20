//! Hands out what no two sandboxes may share: addresses, ports, user ids, and the number that
//! stands for an environment.
//!
//! What is in use is written in the records of instances, and told again by whoever adopts them. An
//! address goes round the whole pool before it is used again, also across restarts of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_model::EnvironmentId;
use insula_sandbox::net::{AddressPool, Attachment, NetConfig};
use insula_sandbox::{Network, UID_RANGE};
use serde::{Deserialize, Serialize};

/// Above what distributions give to people (`/etc/subuid`) and systemd to its containers.
const UID_BASE_FIRST: u32 = 0x7000_0000;
/// Four times the instances of the largest node, and still below 2³¹.
const UID_SLOTS: u32 = 4_096;
/// The kernel is asked for a free port this often before we give up.
const PORT_ATTEMPTS_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    #[error("all addresses of the pool {pool} are in use")]
    Addresses { pool: String },
    #[error("all ranges of user ids are in use")]
    UserIds,
    #[error("find a free port on loopback")]
    Port(#[source] io::Error),
    #[error("all free ports that the kernel offers are promised already")]
    Ports,
}

/// Where one sandbox is. Kept with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// None on the host's network.
    pub attachment: Option<Attachment>,
    pub uid_base: u32,
    /// What `PORT` says, on the host's network; elsewhere each has all ports for itself.
    pub port: Option<u16>,
}

impl Place {
    /// Where it can be reached from the host.
    pub fn address(&self) -> IpAddr {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        self.attachment.as_ref().map_or(loopback, |attachment| attachment.address.into())
    }

    pub fn network(&self) -> Network {
        self.attachment.clone().map_or(Network::Host, Network::Own)
    }
}

#[derive(Debug)]
pub struct Places {
    net: Option<NetConfig>,
    /// Remembers the last address for the next agent.
    last_address: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Option<AddressPool>,
    uids: UidSlots,
    used: BTreeMap<u32, Used>,
    marks: BTreeMap<EnvironmentId, u32>,
}

/// By the base of its user ids, which every place has.
#[derive(Debug, Clone)]
struct Used {
    environment: EnvironmentId,
    place: Place,
}

/// A place as long as it is held: dropping it gives it back.
#[derive(Debug)]
pub struct Held {
    pub place: Place,
    places: Arc<Places>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.places.give_back(&self.place);
    }
}

#[derive(Debug, Default)]
struct UidSlots {
    cursor: u32,
}

impl UidSlots {
    /// The next base that nobody uses, going round.
    fn take(&mut self, used: impl Fn(u32) -> bool) -> Option<u32> {
        for _ in 0..UID_SLOTS {
            let base = UID_BASE_FIRST + self.cursor * UID_RANGE;
            self.cursor = (self.cursor + 1) % UID_SLOTS;
            if !used(base) {
                return Some(base);
            }
        }
        None
    }
}

impl Places {
    /// `last_address` is the file of the address that was handed out last.
    pub fn new(net: Option<NetConfig>, last_address: PathBuf) -> Arc<Self> {
        let last = std::fs::read_to_string(&last_address).ok();
        let last = last.and_then(|text| text.trim().parse().ok());
        let pool = net.as_ref().map(|net| AddressPool::new(net.pool(), last));
        let inner = Inner {
            pool,
            uids: UidSlots::default(),
            used: BTreeMap::new(),
            marks: BTreeMap::new(),
        };
        Arc::new(Self { net, last_address, inner: Mutex::new(inner) })
    }

    pub fn take(self: &Arc<Self>, environment: EnvironmentId) -> Result<Held, NoPlace> {
        let mut inner = self.lock();
        let Inner { pool, uids, used, .. } = &mut *inner;
        let uid_base = uids.take(|base| used.contains_key(&base)).ok_or(NoPlace::UserIds)?;
        let place = match (&self.net, pool) {
            (Some(net), Some(pool)) => {
                let addresses: BTreeSet<Ipv4Addr> = used
                    .values()
                    .filter_map(|used| Some(used.place.attachment.as_ref()?.address))
                    .collect();
                let address = pool
                    .take(&addresses)
                    .ok_or_else(|| NoPlace::Addresses { pool: net.pool().to_string() })?;
                let mark = inner.mark(environment);
                self.remember(address);
                Place { attachment: Some(net.attachment(address, mark)), uid_base, port: None }
            }
            (_, _) => {
                let ports: BTreeSet<u16> =
                    used.values().filter_map(|used| used.place.port).collect();
                Place { attachment: None, uid_base, port: Some(free_port(&ports)?) }
            }
        };
        inner.used.insert(uid_base, Used { environment, place: place.clone() });
        Ok(Held { place, places: Arc::clone(self) })
    }

    /// Of a sandbox that runs already.
    pub fn adopt(self: &Arc<Self>, environment: EnvironmentId, place: Place) -> Held {
        let mut inner = self.lock();
        if let Some(attachment) = &place.attachment {
            inner.marks.insert(environment, attachment.environment_mark);
        }
        inner.used.insert(place.uid_base, Used { environment, place: place.clone() });
        Held { place, places: Arc::clone(self) }
    }

    /// Whether sandboxes have networks of their own, that is, whether we are root.
    pub fn has_networks(&self) -> bool {
        self.net.is_some()
    }

    /// What is attached to the network now, for whoever looks for leftovers.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.lock().used.values().filter_map(|used| used.place.attachment.clone()).collect()
    }

    fn give_back(&self, place: &Place) {
        let mut inner = self.lock();
        let Some(gone) = inner.used.remove(&place.uid_base) else { return };
        if !inner.used.values().any(|used| used.environment == gone.environment) {
            inner.marks.remove(&gone.environment);
        }
    }

    /// For the next agent alone; an address that comes back a little early is no catastrophe, so
    /// this need not survive a power cut, which takes all instances along anyway.
    fn remember(&self, address: Ipv4Addr) {
        let beside = self.last_address.with_extension("new");
        let written = std::fs::write(&beside, address.to_string())
            .and_then(|()| std::fs::rename(&beside, &self.last_address));
        if let Err(error) = written {
            tracing::warn!(%error, "remember the last address");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Made of the id, so that it is most likely the same again; moved on if somebody has it.
    fn mark(&mut self, environment: EnvironmentId) -> u32 {
        if let Some(mark) = self.marks.get(&environment) {
            return *mark;
        }
        let taken: BTreeSet<u32> = self.marks.values().copied().collect();
        let bytes = environment.as_u128().to_be_bytes();
        let mut mark = u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        // Zero means no mark to the kernel.
        while mark == 0 || taken.contains(&mark) {
            mark = mark.wrapping_add(1);
        }
        self.marks.insert(environment, mark);
        mark
    }
}

/// The kernel's choice. Somebody else may take it before the app does; then the app says so, ends,
/// and is started again with another.
fn free_port(promised: &BTreeSet<u16>) -> Result<u16, NoPlace> {
    // Held until one is found, so that the kernel offers another each time.
    let mut offers = Vec::new();
    for _ in 0..PORT_ATTEMPTS_MAX {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(NoPlace::Port)?;
        let port = listener.local_addr().map_err(NoPlace::Port)?.port();
        if !promised.contains(&port) {
            return Ok(port);
        }
        offers.push(listener);
    }
    Err(NoPlace::Ports)
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;

    use super::*;

    fn environment(n: u8) -> EnvironmentId {
        EnvironmentId::from_parts(Timestamp::from_millis(1), [n; 10])
    }

    fn address(held: &Held) -> Ipv4Addr {
        held.place.attachment.as_ref().unwrap().address
    }

    fn mark(held: &Held) -> u32 {
        held.place.attachment.as_ref().unwrap().environment_mark
    }

    #[test]
    fn an_address_goes_round_and_the_next_agent_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("last-address");
        let pool = "10.9.0.0/28".parse().unwrap();
        let net = NetConfig::new("t1".parse().unwrap(), pool, vec![]).unwrap();
        let places = Places::new(Some(net.clone()), file.clone());
        let first = places.take(environment(1)).unwrap();
        let second = places.take(environment(1)).unwrap();
        let stranger = places.take(environment(2)).unwrap();
        assert_eq!(mark(&first), mark(&second));
        assert_ne!(mark(&first), mark(&stranger));
        let (early, kept) = (address(&first), second.place.clone());
        drop(first);
        assert_ne!(address(&places.take(environment(1)).unwrap()), early);

        let next = Places::new(Some(net), file);
        let adopted = next.adopt(environment(1), kept);
        let fresh = next.take(environment(1)).unwrap();
        assert!(address(&fresh) > address(&stranger), "{fresh:?}");
        assert_eq!(mark(&fresh), mark(&adopted));
        assert_ne!(fresh.place.uid_base, adopted.place.uid_base);
        assert_eq!(next.attachments().len(), 2);
    }

    #[test]
    fn ranges_of_user_ids_never_overlap_and_fit_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::new(None, folder.path().join("last-address"));
        let held: Vec<Held> = (0..20).map(|_| places.take(environment(1)).unwrap()).collect();
        let mut bases: Vec<u32> = held.iter().map(|held| held.place.uid_base).collect();
        bases.sort_unstable();
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= UID_RANGE));
        assert!((UID_BASE_FIRST + (UID_SLOTS - 1) * UID_RANGE).checked_add(UID_RANGE).is_some());
        let ports: BTreeSet<_> = held.iter().map(|held| held.place.port).collect();
        assert_eq!(ports.len(), held.len());
    }
}
