//! The processes of a sandbox as seen from the host, and the ports on which they listen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cgroup::Usage;
use crate::identity::{is_gone, parse_stat};
use crate::record::Record;
use crate::spec::Network;

/// Ticks per second in `/proc/<pid>/stat`: fixed for user space on every Linux we run on.
const TICKS_PER_SEC: u64 = 100;
/// `TCP_LISTEN` in `/proc/net/tcp`.
const STATE_LISTEN: &str = "0A";

/// A process by its number on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// What the process calls itself: at most 15 bytes, chosen by the tenant.
    pub name: String,
    /// The init of the sandbox, not a part of the app.
    pub is_init: bool,
}

/// A TCP socket that waits for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    pub address: IpAddr,
    pub port: u16,
    /// Nobody outside the sandbox can reach it.
    pub loopback_only: bool,
}

pub(crate) fn list(record: &Record) -> io::Result<Vec<Process>> {
    let Some(init) = record.init.as_ref().filter(|init| init.is_alive().unwrap_or(false)) else {
        return Ok(Vec::new());
    };
    let mut processes = Vec::new();
    for pid in pids(record, init.pid)? {
        match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => {
                let name = name.trim_end_matches('\n').to_owned();
                processes.push(Process { pid, name, is_init: pid == init.pid });
            }
            Err(error) if is_gone(&error) => {}
            // A name is the tenant's bytes and need not be text.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                processes.push(Process { pid, name: String::new(), is_init: pid == init.pid });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(processes)
}

/// By the control group where there is one; else all descendants of the init, to which every orphan
/// of the namespace returns.
fn pids(record: &Record, init: u32) -> io::Result<Vec<u32>> {
    if let Some(group) = record.cgroups.first() {
        return group.processes();
    }
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(line) = fs::read(format!("/proc/{pid}/stat")) else { continue };
        if let Some(stat) = parse_stat(&line) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = vec![init];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        found.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    Ok(found)
}

/// What control groups would have counted, as far as it can be seen without them.
pub(crate) fn usage(record: &Record) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let page = crate::sys::page_bytes();
    for process in list(record)? {
        let Ok(line) = fs::read(format!("/proc/{}/stat", process.pid)) else { continue };
        if let Some(stat) = parse_stat(&line) {
            usage.pids += 1;
            usage.rss_bytes += stat.rss_pages * page;
            usage.cpu_usec += stat.cpu_ticks * (1_000_000 / TICKS_PER_SEC);
        }
    }
    usage.memory_bytes = usage.rss_bytes;
    Ok(usage)
}

pub(crate) fn listeners(record: &Record) -> io::Result<Vec<Listener>> {
    let Some(init) = record.init.as_ref().filter(|init| init.is_alive().unwrap_or(false)) else {
        return Ok(Vec::new());
    };
    // A shared network holds everybody's sockets; only those count that the sandbox has open.
    let own = match record.network {
        Network::Host => Some(open_sockets(record)?),
        Network::Own(_) | Network::None => None,
    };
    let mut found = BTreeSet::new();
    for file in ["tcp", "tcp6"] {
        let text = match fs::read_to_string(format!("/proc/{}/net/{file}", init.pid)) {
            Ok(text) => text,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        for (listener, inode) in text.lines().skip(1).filter_map(parse_socket) {
            if own.as_ref().is_none_or(|own| own.contains(&inode)) {
                found.insert(listener);
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn open_sockets(record: &Record) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for process in list(record)? {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
        for entry in entries.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let inode: Option<u64> = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            inodes.extend(inode);
        }
    }
    Ok(inodes)
}

/// One line of `/proc/net/tcp` or `tcp6`: a listening socket and its inode.
fn parse_socket(line: &str) -> Option<(Listener, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    if fields.nth(1)? != STATE_LISTEN {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let address = parse_address(address)?;
    let loopback_only = match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|a| a.is_loopback())
        }
    };
    Some((Listener { address, port, loopback_only }, inode))
}

/// Words of 32 bits in the machine's own order, as the kernel prints them.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<String> {
        parse_socket(line).map(|(listener, inode)| {
            let reach = if listener.loopback_only { "loopback" } else { "open" };
            format!("{}:{} {reach} {inode}", listener.address, listener.port)
        })
    }

    #[test]
    fn only_listening_sockets_count() {
        let tail = "00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1 0";
        assert_eq!(parsed(&format!(" 0: 00000000:1F90 {tail}")).unwrap(), "0.0.0.0:8080 open 77");
        assert_eq!(
            parsed(&format!(" 1: 0100007F:1F90 {tail}")).unwrap(),
            "127.0.0.1:8080 loopback 77"
        );
        let established = tail.replace(" 0A ", " 01 ");
        assert_eq!(parsed(&format!(" 2: 0100007F:1F90 {established}")), None);
        let tail6 = tail.replacen("00000000", "00000000000000000000000000000000", 1);
        let any = "00000000000000000000000000000000";
        assert_eq!(parsed(&format!(" 0: {any}:0050 {tail6}")).unwrap(), ":::80 open 77");
        let one = "00000000000000000000000001000000";
        assert_eq!(parsed(&format!(" 0: {one}:0050 {tail6}")).unwrap(), "::1:80 loopback 77");
        assert_eq!(parsed("  sl  local_address rem_address   st"), None);
    }
}
