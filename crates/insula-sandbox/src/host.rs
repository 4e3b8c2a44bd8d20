//! Looks at the host: what of it a sandbox can show. Decides nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::root::{ETC_RUNTIMES, ETC_SHARED, HostFacts, PROC_EMPTIED, PROC_MASKED, PROC_READ_ONLY};
use crate::spec::{Network, SandboxSpec};

/// Folders at the top that are, or once were, apart from `/usr`.
const TOP: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// A name that programs call, and the name under which distributions install it.
const ALIASES: &[(&str, &str)] = &[("python", "python3"), ("pip", "pip3"), ("node", "nodejs")];

pub(crate) fn facts(spec: &SandboxSpec) -> Result<HostFacts, (String, io::Error)> {
    let mut facts = HostFacts { top: top(), etc: etc(), ..HostFacts::default() };
    let proc = PROC_MASKED.iter().chain(PROC_EMPTIED).chain(PROC_READ_ONLY);
    facts.proc_present =
        proc.copied().filter(|name| Path::new("/proc").join(name).exists()).collect();
    facts.usr_private =
        ["local", "src"].into_iter().filter(|name| Path::new("/usr").join(name).is_dir()).collect();
    for (name, real) in ALIASES {
        let target = PathBuf::from(format!("/usr/bin/{real}"));
        if !Path::new("/usr/bin").join(name).exists() && target.exists() {
            facts.aliases.push((name, target));
        }
    }
    if matches!(spec.network, Network::Host) && spec.resolver.is_none() {
        facts.resolv_conf = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    }
    for bind in &spec.binds {
        let metadata = fs::metadata(&bind.source)
            .map_err(|error| (bind.source.display().to_string(), error))?;
        facts.bind_is_dir.push(metadata.is_dir());
    }
    Ok(facts)
}

fn top() -> Vec<(String, Option<PathBuf>)> {
    let mut top = Vec::new();
    for name in TOP {
        let path = Path::new("/").join(name);
        match fs::read_link(&path) {
            Ok(target) => top.push((name.to_string(), Some(target))),
            Err(_) if path.is_dir() => top.push((name.to_string(), None)),
            Err(_) => {}
        }
    }
    top
}

fn etc() -> Vec<(String, bool)> {
    let mut names: Vec<String> = ETC_SHARED.iter().map(|name| name.to_string()).collect();
    for entry in fs::read_dir("/etc").into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && ETC_RUNTIMES.iter().any(|prefix| name.starts_with(prefix)) {
                names.push(name.to_owned());
            }
        }
    }
    names.sort();
    let kind = |name: String| {
        let metadata = fs::metadata(Path::new("/etc").join(&name)).ok()?;
        (metadata.is_dir() || metadata.is_file()).then_some((name, metadata.is_dir()))
    };
    names.into_iter().filter_map(kind).collect()
}
