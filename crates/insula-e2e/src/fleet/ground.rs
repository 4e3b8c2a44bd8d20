//! The ground that a fleet stands on: network namespaces of our own, joined by one bridge.
//!
//! Nothing of it is in the host's network: the bridge has a namespace too, so that whatever is cut
//! or slowed there concerns this fleet alone. Each place has an address in 10.97.0.0/24 and a way
//! to nowhere else.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Counts the grounds of this process.
static GROUNDS: AtomicU32 = AtomicU32::new(0);

const BRIDGE: &str = "ground";

#[derive(Debug)]
pub struct Ground {
    /// What every name of ours begins with.
    tag: String,
    places: Vec<String>,
}

/// A namespace of the ground, and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub name: String,
    pub address: Ipv4Addr,
    namespace: String,
}

/// What this machine lacks for grounds, if anything.
pub fn missing() -> Option<&'static str> {
    let has = |program: &str| {
        let tried = Command::new(program).arg("-V").output();
        tried.is_ok()
    };
    if !rustix::process::geteuid().is_root() {
        return Some("not root: no network namespaces");
    }
    if !has("ip") {
        return Some("the package iproute2 is missing");
    }
    if !has("nft") {
        return Some("the package nftables is missing");
    }
    None
}

impl Ground {
    pub fn lay() -> Result<Self> {
        let number = GROUNDS.fetch_add(1, Ordering::Relaxed);
        let ground = Self { tag: format!("ie{}-{number}", std::process::id()), places: Vec::new() };
        ip(&["netns", "add", &ground.hub()])?;
        let hub = ground.hub();
        ip(&["-n", &hub, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", BRIDGE, "up"])?;
        nft(
            &hub,
            "table bridge insula {\n chain forward {\n type filter hook forward priority 0;\n }\n}\n",
        )?;
        Ok(ground)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.tag)
    }

    fn port(index: usize) -> String {
        format!("p{index}")
    }

    /// A new place on the ground.
    pub fn place(&mut self, name: &str) -> Result<Place> {
        let index = self.places.len();
        let last = u8::try_from(index + 1).context("a ground has 254 places")?;
        let address = Ipv4Addr::new(10, 97, 0, last);
        let namespace = format!("{}-{name}", self.tag);
        let (hub, port) = (self.hub(), Self::port(index));
        ip(&["netns", "add", &namespace])?;
        self.places.push(name.to_owned());
        let veth = ["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0"];
        ip(&[veth.as_slice(), &["netns", &namespace]].concat())?;
        ip(&["-n", &hub, "link", "set", &port, "master", BRIDGE, "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        let with_length = format!("{address}/24");
        ip(&["-n", &namespace, "address", "add", &with_length, "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        Ok(Place { name: name.to_owned(), address, namespace })
    }

    fn index(&self, name: &str) -> Result<usize> {
        let found = self.places.iter().position(|place| place == name);
        found.with_context(|| format!("there is no place {name}"))
    }

    /// Lets nothing through from one place to another. The other way stays open.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (Self::port(self.index(from)?), Self::port(self.index(to)?));
        let rule =
            format!("add rule bridge insula forward iifname \"{from}\" oifname \"{to}\" drop\n");
        nft(&self.hub(), &rule)
    }

    pub fn cut(&self, one: &str, other: &str) -> Result<()> {
        self.cut_one_way(one, other)?;
        self.cut_one_way(other, one)
    }

    /// Cuts a place off from all others.
    pub fn cut_off(&self, name: &str) -> Result<()> {
        let port = Self::port(self.index(name)?);
        let rules = format!(
            "add rule bridge insula forward iifname \"{port}\" drop\n\
             add rule bridge insula forward oifname \"{port}\" drop\n"
        );
        nft(&self.hub(), &rules)
    }

    /// Takes back every cut, and leaves these two cut off from each other all along.
    pub fn heal_all_but(&self, one: &str, other: &str) -> Result<()> {
        let (one, other) = (Self::port(self.index(one)?), Self::port(self.index(other)?));
        // In one transaction: nothing gets through meanwhile.
        let rules = format!(
            "flush chain bridge insula forward\n\
             add rule bridge insula forward iifname \"{one}\" oifname \"{other}\" drop\n\
             add rule bridge insula forward iifname \"{other}\" oifname \"{one}\" drop\n"
        );
        nft(&self.hub(), &rules)
    }

    /// Listens to everything that crosses the ground.
    pub fn tap(&self) -> Result<super::capture::Capture> {
        let (name, namespace) = (BRIDGE.to_owned(), self.hub());
        super::capture::Capture::begin(&Place { name, address: Ipv4Addr::UNSPECIFIED, namespace })
    }

    /// Takes back every cut.
    pub fn heal(&self) -> Result<()> {
        nft(&self.hub(), "flush chain bridge insula forward\n")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let namespaces = self.places.iter().map(|name| format!("{}-{name}", self.tag));
        for namespace in namespaces.chain([self.hub()]) {
            if let Err(error) = ip(&["netns", "delete", &namespace]) {
                eprintln!("{error:#}");
            }
        }
    }
}

impl Place {
    /// A command that runs in this place's network and sees the rest of this machine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg("--").arg(program);
        command
    }

    /// Does something in this place's network, on a thread of its own.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.namespace))?;
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                use std::os::fd::AsFd;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("enter the network of {}", self.name))?;
                work()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn at(&self, port: u16) -> std::net::SocketAddr {
        (IpAddr::V4(self.address), port).into()
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output().context("run ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn nft(namespace: &str, rules: &str) -> Result<()> {
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{namespace}"))
        .args(["--", "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nft")?;
    child.stdin.take().context("stdin")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("nft {rules}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
