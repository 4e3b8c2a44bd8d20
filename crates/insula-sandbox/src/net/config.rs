//! What an operator decides about a node's network, and the names that follow from it.
//!
//! Names and addresses are computed here and nowhere else: an interface's name is a function of
//! tag and address, so two attachments can never claim one address under two names.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `ins-` + tag + `-` + four hexadecimal digits must fit the kernel's 15 characters.
const TAG_CHARS_MAX: usize = 6;
/// A /16 is 49,150 instances beside those of other nodes, and its host part fits the four digits of an interface's name.
const POOL_PREFIX_MIN: u8 = 16;
/// A /28 still has ten addresses; below that, no deployment that starts first and stops later fits.
const POOL_PREFIX_MAX: u8 = 28;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadConfig {
    #[error("`{0}` is not a tag: one to six of a-z and 0-9")]
    Tag(String),
    #[error("`{0}` is not an IPv4 range such as 10.87.0.0/16")]
    Cidr(String),
    #[error("`{0}` has bits set behind its prefix")]
    HostBits(String),
    #[error("the pool {0} must be between a /16 and a /28")]
    PoolSize(Ipv4Cidr),
    #[error("{0} is not an address for an instance of another node")]
    Remote(Ipv4Addr),
    #[error("`{interface}` is not the name of a link of the installation `{tag}`")]
    Interface { interface: String, tag: NetTag },
}

/// Keeps two installations on one machine apart: part of every name in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetTag(String);

impl NetTag {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The table that holds all our rules.
    pub(super) fn table(&self) -> String {
        format!("insula_{}", self.0)
    }

    /// The interface that carries the gateway's address. Never matches [`Self::link_prefix`].
    pub(super) fn anchor(&self) -> String {
        format!("ins-{}0", self.0)
    }

    /// What the host's end of every instance's link begins with, and nothing else's.
    pub(super) fn link_prefix(&self) -> String {
        format!("ins-{}-", self.0)
    }
}

impl fmt::Display for NetTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NetTag {
    type Err = BadConfig;

    fn from_str(text: &str) -> Result<Self, BadConfig> {
        let fits = (1..=TAG_CHARS_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if fits { Ok(Self(text.to_owned())) } else { Err(BadConfig::Tag(text.to_owned())) }
    }
}

impl TryFrom<String> for NetTag {
    type Error = BadConfig;

    fn try_from(text: String) -> Result<Self, BadConfig> {
        text.parse()
    }
}

impl From<NetTag> for String {
    fn from(tag: NetTag) -> Self {
        tag.0
    }
}

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr {
    base: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Cidr {
    pub const fn base(self) -> Ipv4Addr {
        self.base
    }

    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    pub(super) fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask().to_bits() == self.base.to_bits()
    }

    /// A pool is never so small that there is none.
    pub(super) fn last_quarter(self) -> Self {
        let quarter = u32::try_from(self.size() / 4).unwrap_or(u32::MAX);
        Self {
            base: Ipv4Addr::from_bits(self.base.to_bits() + 3 * quarter),
            prefix: self.prefix + 2,
        }
    }

    /// How many addresses the range has, base and last included.
    pub(super) fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = BadConfig;

    /// A bare address is a range of one.
    fn from_str(text: &str) -> Result<Self, BadConfig> {
        let bad = || BadConfig::Cidr(text.to_owned());
        let (base, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let base: Ipv4Addr = base.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if prefix > 32 {
            return Err(bad());
        }
        let range = Self { base, prefix };
        if !range.contains(base) {
            return Err(BadConfig::HostBits(text.to_owned()));
        }
        Ok(range)
    }
}

impl TryFrom<String> for Ipv4Cidr {
    type Error = BadConfig;

    fn try_from(text: String) -> Result<Self, BadConfig> {
        text.parse()
    }
}

impl From<Ipv4Addr> for Ipv4Cidr {
    fn from(base: Ipv4Addr) -> Self {
        Self { base, prefix: 32 }
    }
}

impl From<Ipv4Cidr> for String {
    fn from(range: Ipv4Cidr) -> Self {
        range.to_string()
    }
}

/// The network of one node. Made by [`NetConfig::new`], which checks the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    tag: NetTag,
    pool: Ipv4Cidr,
    open: Vec<Ipv4Cidr>,
}

impl NetConfig {
    /// `open`: private ranges that instances may reach because the operator said so.
    pub fn new(tag: NetTag, pool: Ipv4Cidr, open: Vec<Ipv4Cidr>) -> Result<Self, BadConfig> {
        if (POOL_PREFIX_MIN..=POOL_PREFIX_MAX).contains(&pool.prefix) {
            Ok(Self { tag, pool, open })
        } else {
            Err(BadConfig::PoolSize(pool))
        }
    }

    /// 10.87.0.0/16: private, and away from what Docker, libvirt and home routers take.
    pub const fn default_pool() -> Ipv4Cidr {
        Ipv4Cidr { base: Ipv4Addr::new(10, 87, 0, 0), prefix: 16 }
    }

    pub fn tag(&self) -> &NetTag {
        &self.tag
    }

    pub fn pool(&self) -> Ipv4Cidr {
        self.pool
    }

    pub fn open(&self) -> &[Ipv4Cidr] {
        &self.open
    }

    /// The last quarter of the pool: addresses of the host itself that stand for instances of other
    /// nodes. No instance here is given one.
    pub fn remote_range(&self) -> Ipv4Cidr {
        self.pool.last_quarter()
    }

    /// The pool's first address: default gateway of every instance, and where the resolver listens.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.pool.base.to_bits() + 1)
    }

    /// What `attach` needs for an instance with this address.
    pub fn attachment(&self, address: Ipv4Addr, environment_mark: u32) -> Attachment {
        let host_part = address.to_bits() & !self.pool.mask().to_bits();
        Attachment {
            tag: self.tag.clone(),
            interface: format!("{}{host_part:04x}", self.tag.link_prefix()),
            address,
            gateway: self.gateway(),
            environment_mark,
        }
    }
}

/// One instance's place in the network. Written down by whoever starts the instance, so that it can
/// be detached after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub tag: NetTag,
    /// The host's end of the link; the instance's end is called `eth0`.
    pub interface: String,
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    /// Instances reach each other when they have the same mark. One number per environment and node.
    pub environment_mark: u32,
}

impl Attachment {
    /// Refuses a name that the rules would not recognise as ours: such an interface would be unguarded.
    pub(super) fn checked(&self) -> Result<&Self, BadConfig> {
        let ours = self.interface.starts_with(&self.tag.link_prefix());
        if ours && self.interface.len() < libc::IFNAMSIZ {
            Ok(self)
        } else {
            Err(BadConfig::Interface { interface: self.interface.clone(), tag: self.tag.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pool: &str) -> Result<NetConfig, BadConfig> {
        NetConfig::new("abc123".parse().unwrap(), pool.parse().unwrap(), Vec::new())
    }

    #[test]
    fn names_fit_and_do_not_collide() {
        let config = config("10.87.0.0/16").unwrap();
        let first = config.attachment(Ipv4Addr::new(10, 87, 0, 2), 7);
        let last = config.attachment(Ipv4Addr::new(10, 87, 255, 254), 7);
        assert_eq!(first.interface, "ins-abc123-0002");
        assert_eq!(last.interface, "ins-abc123-fffe");
        assert!(last.interface.len() < libc::IFNAMSIZ);
        assert!(!config.tag().anchor().starts_with(&config.tag().link_prefix()));
        assert_eq!(config.gateway(), Ipv4Addr::new(10, 87, 0, 1));
        assert!(first.checked().is_ok());
    }

    #[test]
    fn addresses_for_remote_instances_are_the_end_of_the_pool() {
        let range = |pool: &str| config(pool).unwrap().remote_range().to_string();
        assert_eq!(range("10.87.0.0/16"), "10.87.192.0/18");
        assert_eq!(range("192.168.7.16/28"), "192.168.7.28/30");
    }

    #[test]
    fn an_interface_the_rules_would_not_know_is_refused() {
        let config = config("10.87.0.0/16").unwrap();
        for name in ["eth0", "ins-abc12-0002", "ins-abc123-00002"] {
            let mut attachment = config.attachment(Ipv4Addr::new(10, 87, 0, 2), 7);
            attachment.interface = name.to_owned();
            assert!(attachment.checked().is_err(), "{name}");
        }
    }

    #[test]
    fn ranges_are_read_strictly() {
        let range: Ipv4Cidr = "10.87.0.0/16".parse().unwrap();
        assert!(range.contains(Ipv4Addr::new(10, 87, 3, 4)));
        assert!(!range.contains(Ipv4Addr::new(10, 88, 0, 0)));
        assert_eq!("1.2.3.4".parse::<Ipv4Cidr>().unwrap().to_string(), "1.2.3.4/32");
        assert_eq!("0.0.0.0/0".parse::<Ipv4Cidr>().unwrap().mask(), Ipv4Addr::UNSPECIFIED);
        for bad in ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "::/0", "x/8"] {
            assert!(bad.parse::<Ipv4Cidr>().is_err(), "{bad}");
        }
        assert!(config("10.0.0.0/8").is_err());
        assert!(config("10.0.0.0/29").is_err());
        for bad in ["", "seven77", "Abc", "a-b", "a/b"] {
            assert!(bad.parse::<NetTag>().is_err(), "{bad}");
        }
    }
}
