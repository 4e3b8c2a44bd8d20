//! What the tests need of the distribution, and how to have it. The one table; a test that
//! needs another package adds a row with its reason.

use std::path::Path;

use anyhow::{Context, Result};

use crate::process;

struct Package {
    name: &'static str,
    /// A file that shows that it is there although another package brought it (Node's own
    /// package contains npm, and refuses the distribution's).
    witness: Option<&'static str>,
    reason: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "python3",
        witness: Some("/usr/bin/python3"),
        reason: "Python apps run on the host's interpreter",
    },
    Package {
        name: "python3-venv",
        witness: None,
        reason: "builds of Python apps make a virtual environment",
    },
    Package {
        name: "python3-pip",
        witness: None,
        reason: "builds of Python apps install their requirements",
    },
    Package {
        name: "nodejs",
        witness: Some("/usr/bin/node"),
        reason: "Node apps run on the host's interpreter",
    },
    Package {
        name: "npm",
        witness: Some("/usr/bin/npm"),
        reason: "builds of Node apps install their packages",
    },
    Package { name: "postgresql", witness: None, reason: "the store's suite runs on it too" },
    Package {
        name: "iproute2",
        witness: Some("/usr/sbin/ip"),
        reason: "a fleet in network namespaces is wired up with it",
    },
    Package {
        name: "nftables",
        witness: Some("/usr/sbin/nft"),
        reason: "the fleet's partitions are rules of packets between its namespaces",
    },
    Package {
        name: "openssl",
        witness: Some("/usr/bin/openssl"),
        reason: "makes the certificates of a server of S3 with TLS",
    },
];

/// Seconds that we wait for another installer; a fresh machine often upgrades itself first.
const DPKG_WAIT: &str = "DPkg::Lock::Timeout=300";

/// Whether every package is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packages {
    Complete,
    /// The tests that need them say SKIPPED.
    Incomplete,
}

/// Installs what is missing when we are root; otherwise says what is missing, in one line.
pub fn provide() -> Result<Packages> {
    let missing = missing(installed()?.as_deref());
    if missing.is_empty() {
        return Ok(Packages::Complete);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !is_root() {
        eprintln!(
            "SKIPPED: not root, so tests that need these packages are left out: apt-get install {}",
            names.join(" ")
        );
        return Ok(Packages::Incomplete);
    }
    for package in &missing {
        println!("installing {}: {}", package.name, package.reason);
    }
    let apt = |words: &[&str]| {
        let mut apt = process::command("apt-get");
        apt.args(["-q", "-y", "-o", DPKG_WAIT])
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive");
        process::run(&mut apt)
    };
    apt(&["update"]).context("the lists of packages could not be fetched")?;
    let mut install = vec!["install", "--no-install-recommends", "--"];
    install.extend(&names);
    apt(&install).with_context(|| format!("install by hand: {}", names.join(" ")))?;
    Ok(Packages::Complete)
}

pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // A process owns its own folder there; no need for a crate to ask for the user id.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// What dpkg says of each package in the table; `None` where there is no dpkg.
fn installed() -> Result<Option<String>> {
    let mut dpkg = process::command("dpkg-query");
    dpkg.args(["--show", "--showformat", "${db:Status-Status} ${Package}\n", "--"]);
    dpkg.args(PACKAGES.iter().map(|package| package.name));
    // It fails when it does not know one of them, and still tells of the others.
    match dpkg.output() {
        Ok(output) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err).context("ask dpkg-query"),
    }
}

fn missing(dpkg: Option<&str>) -> Vec<&'static Package> {
    let is_there = |package: &Package| {
        let line = format!("installed {}", package.name);
        dpkg.is_some_and(|dpkg| dpkg.lines().any(|said| said == line))
            || package.witness.is_some_and(|file| Path::new(file).exists())
    };
    PACKAGES.iter().filter(|package| !is_there(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_counts_when_dpkg_says_installed() {
        let all: String = PACKAGES.iter().map(|p| format!("installed {}\n", p.name)).collect();
        assert!(missing(Some(&all)).is_empty());
        let names = |dpkg| missing(dpkg).iter().map(|p| p.name).collect::<Vec<_>>();
        assert!(names(Some("config-files python3-venv\n")).contains(&"python3-venv"));
        assert!(names(Some("installed python3-venv-more\n")).contains(&"python3-venv"));
        assert!(names(None).contains(&"python3-venv"), "no dpkg, and nothing to see it by");
    }
}
