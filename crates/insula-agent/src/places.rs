//! Hands out what no two sandboxes may share: addresses, ports, user ids, and the number that
//! stands for an environment.
//!
//! What is in use is written in the records of instances, and told again by whoever adopts them. An
//! address goes round the whole pool before it is used again, also across restarts of the agent and
//! power cuts (see `addresses`). On the host's own network (development) ports are the kernel's choice
//! and come back whenever it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_kit::files::{self, Access, FileError};
use insula_model::EnvironmentId;
use insula_sandbox::net::{Attachment, NetConfig};
use insula_sandbox::{Network, UID_RANGE};
use serde::{Deserialize, Serialize};

use crate::addresses::{Addresses, Cover, Next};
use crate::error::chain;

/// Above what distributions give to people (`/etc/subuid`) and systemd to its containers.
const UID_BASE_FIRST: u32 = 0x7000_0000;
/// Four times the instances of the largest node, and still below 2³¹.
const UID_SLOTS: u32 = 4_096;
/// The longest address and a line's end.
const ADDRESS_BYTES_MAX: u64 = 64;
/// The kernel is asked for a free port this often before we give up.
const PORT_ATTEMPTS_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    #[error("all addresses of the pool {pool} are in use")]
    Addresses { pool: String },
    #[error("write down which addresses may be given")]
    Cover(#[source] FileError),
    #[error("the agent is ending")]
    Ending,
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
    /// Says for the next agent up to which address any may have been given.
    last_address: PathBuf,
    /// Who writes that file.
    writing: Arc<tokio::sync::Mutex<()>>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    addresses: Option<Addresses>,
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

enum Taken {
    Held(Held),
    /// Not before this is on disk.
    Cover(Cover),
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
    /// `last_address` is the file of the address up to which any may have been given.
    pub fn new(net: Option<NetConfig>, last_address: PathBuf) -> Arc<Self> {
        let addresses = net.as_ref().map(|net| Addresses::new(net.pool(), read(&last_address)));
        let inner = Inner {
            addresses,
            uids: UidSlots::default(),
            used: BTreeMap::new(),
            marks: BTreeMap::new(),
        };
        let writing = Arc::default();
        Arc::new(Self { net, last_address, writing, inner: Mutex::new(inner) })
    }

    /// For one new sandbox. Now and then this waits for the disk, once for many.
    pub async fn take(self: &Arc<Self>, environment: EnvironmentId) -> Result<Held, NoPlace> {
        if let Taken::Held(held) = self.try_take(environment)? {
            return Ok(held);
        }
        loop {
            let alone = Arc::clone(&self.writing).lock_owned().await;
            // Whoever wrote until now may have done it for us.
            match self.try_take(environment)? {
                Taken::Held(held) => return Ok(held),
                Taken::Cover(cover) => self.cover(cover, alone).await?,
            }
        }
    }

    fn try_take(self: &Arc<Self>, environment: EnvironmentId) -> Result<Taken, NoPlace> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let attachment = match (&self.net, &mut inner.addresses) {
            (Some(net), Some(addresses)) => {
                let used = attached(&inner.used).map(|attachment| attachment.address).collect();
                let next = addresses.next(&used);
                match next.ok_or_else(|| NoPlace::Addresses { pool: net.pool().to_string() })? {
                    Next::Given(address) => Some(net.attachment(address, inner.mark(environment))),
                    Next::Cover(cover) => return Ok(Taken::Cover(cover)),
                }
            }
            (_, _) => None,
        };
        let Inner { uids, used, .. } = inner;
        let uid_base = uids.take(|base| used.contains_key(&base)).ok_or(NoPlace::UserIds)?;
        let port = match &attachment {
            Some(_) => None,
            None => Some(free_port(&used.values().filter_map(|it| it.place.port).collect())?),
        };
        let place = Place { attachment, uid_base, port };
        used.insert(uid_base, Used { environment, place: place.clone() });
        Ok(Taken::Held(Held { place, places: Arc::clone(self) }))
    }

    /// On disk when this returns, whatever becomes of the machine: then addresses may be given. Also if
    /// nobody waits for it any more, it is alone until it is done: an older one must not come last.
    async fn cover(
        self: &Arc<Self>,
        cover: Cover,
        alone: tokio::sync::OwnedMutexGuard<()>,
    ) -> Result<(), NoPlace> {
        let places = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            let text = cover.last.to_string();
            files::write_durably(&places.last_address, text.as_bytes(), Access::Private)?;
            if let Some(addresses) = &mut places.lock().addresses {
                addresses.covered(cover);
            }
            Ok(())
        });
        writing.await.map_err(|_| NoPlace::Ending)?.map_err(NoPlace::Cover)
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
        attached(&self.lock().used).cloned().collect()
    }

    fn give_back(&self, place: &Place) {
        let mut inner = self.lock();
        let Some(gone) = inner.used.remove(&place.uid_base) else { return };
        if !inner.used.values().any(|used| used.environment == gone.environment) {
            inner.marks.remove(&gone.environment);
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

fn attached(used: &BTreeMap<u32, Used>) -> impl Iterator<Item = &Attachment> {
    used.values().filter_map(|used| used.place.attachment.as_ref())
}

/// Nothing before the first address was given.
fn read(last_address: &Path) -> Option<Ipv4Addr> {
    let text = match files::read(last_address, ADDRESS_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.is_missing() => return None,
        Err(error) => {
            tracing::error!(error = %chain(&error), "addresses begin with the pool's first");
            return None;
        }
    };
    let last = str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    if last.is_none() {
        let path = last_address.display();
        tracing::error!(%path, "not an address: addresses begin with the pool's first");
    }
    last
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

    #[tokio::test]
    async fn an_address_goes_round_and_the_next_agent_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("last-address");
        let pool = "10.9.0.0/28".parse().unwrap();
        let net = NetConfig::new("t1".parse().unwrap(), pool, vec![]).unwrap();
        let places = Places::new(Some(net.clone()), file.clone());
        let first = places.take(environment(1)).await.unwrap();
        let second = places.take(environment(1)).await.unwrap();
        let stranger = places.take(environment(2)).await.unwrap();
        assert_eq!(mark(&first), mark(&second));
        assert_ne!(mark(&first), mark(&stranger));
        let (early, kept) = (address(&first), second.place.clone());
        drop(first);
        assert_ne!(address(&places.take(environment(1)).await.unwrap()), early);

        let next = Places::new(Some(net), file);
        let adopted = next.adopt(environment(1), kept);
        let fresh = next.take(environment(1)).await.unwrap();
        assert!(address(&fresh) > address(&stranger), "{fresh:?}");
        assert_eq!(mark(&fresh), mark(&adopted));
        assert_ne!(fresh.place.uid_base, adopted.place.uid_base);
        assert_eq!(next.attachments().len(), 2);
    }

    /// A power cut takes what was not synced: the records of instances, and every later state of the
    /// file than the one that was there when an address was given.
    #[tokio::test]
    async fn after_a_power_cut_another_tenant_gets_an_address_that_nobody_had() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("last-address");
        let net = || {
            let pool = "10.9.0.0/16".parse().unwrap();
            Some(NetConfig::new("t1".parse().unwrap(), pool, vec![]).unwrap())
        };
        let places = Places::new(net(), file.clone());
        let mut had = BTreeSet::new();
        let mut synced: Vec<(Vec<u8>, BTreeSet<Ipv4Addr>)> = Vec::new();
        for _ in 0..150 {
            had.insert(address(&places.take(environment(1)).await.unwrap()));
            let now = std::fs::read(&file).unwrap();
            match synced.last_mut() {
                // As it was when it was synced; these were given since.
                Some((bytes, since)) if *bytes == now => since.clone_from(&had),
                _ => synced.push((now, had.clone())),
            }
        }
        drop(places);
        assert_eq!(synced.len(), 3, "one write is for many");
        for (bytes, had) in synced {
            std::fs::write(&file, bytes).unwrap();
            let next = Places::new(net(), file.clone());
            let stranger = next.take(environment(2)).await.unwrap();
            assert!(!had.contains(&address(&stranger)), "{stranger:?}");
        }
    }

    #[tokio::test]
    async fn on_a_disk_that_takes_nothing_no_address_is_given_beyond_what_it_covers() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let pool = "10.9.0.0/24".parse().unwrap();
        let net = NetConfig::new("t1".parse().unwrap(), pool, vec![]).unwrap();
        let places = Places::new(Some(net), gone.join("last-address"));
        places.take(environment(1)).await.unwrap();
        std::fs::remove_dir_all(&gone).unwrap();
        let mut given = 1;
        let error = loop {
            match places.take(environment(1)).await {
                Ok(_) => given += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, NoPlace::Cover(_)), "{error:?}");
        assert_eq!(given, 4, "what one block of this pool has");
        std::fs::create_dir(&gone).unwrap();
        places.take(environment(1)).await.unwrap();
    }

    #[tokio::test]
    async fn many_at_once_get_one_each() {
        let folder = tempfile::tempdir().unwrap();
        let pool = "10.9.0.0/16".parse().unwrap();
        let net = NetConfig::new("t1".parse().unwrap(), pool, vec![]).unwrap();
        let places = Places::new(Some(net), folder.path().join("last-address"));
        let taking = (0..200).map(|_| places.take(environment(1)));
        let held = futures_util::future::try_join_all(taking).await.unwrap();
        let addresses: BTreeSet<_> = held.iter().map(address).collect();
        assert_eq!(addresses.len(), held.len());
        let covered = read(&places.last_address).unwrap();
        assert!(covered >= *addresses.last().unwrap(), "{covered}");
    }

    #[tokio::test]
    async fn ranges_of_user_ids_never_overlap_and_fit_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::new(None, folder.path().join("last-address"));
        let taking = (0..20).map(|_| places.take(environment(1)));
        let held = futures_util::future::try_join_all(taking).await.unwrap();
        let mut bases: Vec<u32> = held.iter().map(|held| held.place.uid_base).collect();
        bases.sort_unstable();
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= UID_RANGE));
        assert!((UID_BASE_FIRST + (UID_SLOTS - 1) * UID_RANGE).checked_add(UID_RANGE).is_some());
        let ports: BTreeSet<_> = held.iter().map(|held| held.place.port).collect();
        assert_eq!(ports.len(), held.len());
    }
}
