//! One `[components.<name>]` of `insula.toml`.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::limits as l;
use insula_model::names::excerpt;
use insula_model::spec::{
    ComponentKind, ComponentSpec, Failover, Isolation, LivenessSpec, PlacementSpec, RolloutSpec,
    RouteSpec, Runtime, StopSignal,
};
use insula_model::{Bytes, MilliCpu, Millis, VariableName};

use super::reader::{Entry, Reader, Section};

const KEYS: &[&str] = &[
    "kind",
    "build",
    "image",
    "run",
    "root",
    "port",
    "instances",
    "cpu",
    "memory",
    "pids",
    "disk",
    "routes",
    "health",
    "liveness",
    "single",
    "failover",
    "rollout",
    "placement",
    "isolation",
    "drain",
    "stop",
    "variables",
];
/// More often than this a probe is a load test.
const PROBE_INTERVAL_MIN: Millis = Millis(100);
/// Less often than this nobody would call it watched.
const PROBE_INTERVAL_MAX: Millis = Millis::secs(600);
const PROBE_TIMEOUT_MIN: Millis = Millis(10);
const PROBE_TIMEOUT_MAX: Millis = Millis::secs(60);
/// One failure may be a slow moment; three in a row are not.
const LIVENESS_FAILURES_DEFAULT: u32 = 3;
const LIVENESS_FAILURES_MAX: u32 = 100;
const LIVENESS_INTERVAL_DEFAULT: Millis = Millis::secs(10);

/// What was written; nothing where nothing was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Component {
    pub line: Option<usize>,
    /// Where each key of it stands, for rules that look at more than one.
    pub lines: BTreeMap<String, Option<usize>>,
    pub kind: Option<ComponentKind>,
    pub runtime: Option<Runtime>,
    pub run: Option<String>,
    pub root: Option<String>,
    pub port: Option<u16>,
    pub instances: Option<u32>,
    pub cpu: Option<MilliCpu>,
    pub memory: Option<Bytes>,
    pub pids: Option<u32>,
    pub disk: Option<Bytes>,
    pub routes: Option<Vec<Route>>,
    pub health: Option<Health>,
    pub liveness: Option<LivenessSpec>,
    pub single: Option<bool>,
    pub failover: Option<Failover>,
    pub rollout: Option<RolloutSpec>,
    pub placement: Option<PlacementSpec>,
    pub isolation: Option<Isolation>,
    pub drain: Option<Millis>,
    pub signal: Option<StopSignal>,
    pub grace: Option<Millis>,
    pub variables: BTreeMap<VariableName, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub spec: RouteSpec,
    pub line: Option<usize>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    pub path: Option<String>,
    pub startup: Option<Millis>,
    pub interval: Option<Millis>,
    pub timeout: Option<Millis>,
}

impl Component {
    /// Whether what decides how the component runs could not be read, so that nothing more should
    /// be said of it.
    pub fn is_unclear(&self) -> bool {
        let unread = |key: &str, read: bool| self.lines.contains_key(key) && !read;
        unread("kind", self.kind.is_some())
            || unread("build", self.runtime.is_some())
            || unread("run", self.run.is_some())
            || unread("root", self.root.is_some())
            || unread("image", false)
    }

    /// Puts what was written over the defaults. Kind, runtime, command, root and routes are
    /// decided elsewhere: they depend on the source and on the other components.
    pub fn apply(&self, spec: &mut ComponentSpec) {
        fn put<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(value) = from {
                to.clone_from(value);
            }
        }
        put(&mut spec.port, &self.port);
        put(&mut spec.instances, &self.instances);
        put(&mut spec.cpu, &self.cpu);
        put(&mut spec.memory, &self.memory);
        put(&mut spec.pids, &self.pids);
        put(&mut spec.disk, &self.disk);
        put(&mut spec.single, &self.single);
        put(&mut spec.failover, &self.failover);
        put(&mut spec.rollout, &self.rollout);
        put(&mut spec.placement, &self.placement);
        put(&mut spec.isolation, &self.isolation);
        put(&mut spec.drain, &self.drain);
        put(&mut spec.stop.signal, &self.signal);
        put(&mut spec.stop.grace, &self.grace);
        if let Some(health) = &self.health {
            spec.health.path.clone_from(&health.path);
            put(&mut spec.health.startup, &health.startup);
            put(&mut spec.health.interval, &health.interval);
            put(&mut spec.health.timeout, &health.timeout);
        }
        spec.liveness.clone_from(&self.liveness);
        spec.variables.clone_from(&self.variables);
    }
}

pub(super) fn read(reader: &mut Reader, entry: &Entry<'_>) -> Option<Component> {
    let table = reader.table(entry, KEYS, "[components.web]")?;
    let mut c = Component { line: entry.line, ..Component::default() };
    for (name, entry) in table.entries(reader) {
        c.lines.insert(name.to_owned(), entry.line);
        read_key(reader, &mut c, name, &entry);
    }
    if c.single == Some(true) && c.instances.is_some_and(|n| n > 1) {
        let line = c.lines.get("single").copied().flatten();
        let message = "`single` means never two at once, and `instances` asks for more";
        let key = format!("{}.single", entry.path);
        reader.refuse_at(&key, line, message, "leave out one of them");
    }
    if c.failover == Some(Failover::Lease) && c.single != Some(true) {
        let line = c.lines.get("failover").copied().flatten();
        let message = "`failover` is for a component that is `single`; others are replaced anyway";
        let key = format!("{}.failover", entry.path);
        reader.refuse_at(&key, line, message, "add `single = true`, or leave it out");
    }
    Some(c)
}

fn read_key(reader: &mut Reader, c: &mut Component, name: &str, entry: &Entry<'_>) {
    match name {
        "kind" => c.kind = one_of(reader, entry, ComponentKind::ALL, ComponentKind::as_str),
        "build" => c.runtime = read_build(reader, entry),
        "image" => reader.refuse(
            entry,
            "running an image is not available yet; it comes later",
            "leave it out, and let `build = { runtime = \"python\" }` or `run` say what to start",
        ),
        "run" => c.run = read_run(reader, entry),
        "root" => c.root = read_root(reader, entry),
        "port" => {
            let port = reader.whole(entry, 1, u16::MAX.into(), "a port", "port = 8080");
            c.port = port.and_then(|port| u16::try_from(port).ok());
        }
        "instances" => c.instances = read_instances(reader, entry),
        "cpu" => c.cpu = read_cpu(reader, entry),
        "memory" => {
            c.memory = reader.size(entry, l::MEMORY_MIN, l::MEMORY_MAX, "memory = \"256MiB\"");
        }
        "pids" => {
            c.pids = reader.whole(
                entry,
                l::PIDS_MIN,
                l::PIDS_MAX,
                "a number of processes",
                "pids = 100",
            );
        }
        "disk" => c.disk = reader.size(entry, l::DISK_MIN, l::DISK_MAX, "disk = \"128MiB\""),
        "routes" => c.routes = read_routes(reader, entry),
        "health" => c.health = read_health(reader, entry),
        "liveness" => c.liveness = read_liveness(reader, entry),
        "single" => c.single = reader.boolean(entry, "single = true"),
        "failover" => c.failover = one_of(reader, entry, Failover::ALL, Failover::as_str),
        "rollout" => c.rollout = super::rollout::read(reader, entry),
        "placement" => c.placement = super::placement::read(reader, entry),
        "isolation" => c.isolation = read_isolation(reader, entry),
        "drain" => c.drain = reader.span(entry, Millis(0), l::DRAIN_MAX, "drain = \"15s\""),
        "stop" => read_stop(reader, c, entry),
        "variables" => c.variables = read_variables(reader, entry),
        // `table` has refused every other key, with what it may have meant.
        _ => {}
    }
}

pub(super) fn one_of<T: Copy, const N: usize>(
    reader: &mut Reader,
    entry: &Entry<'_>,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Option<T> {
    let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
    let list = names.join(", ");
    let text = reader.text(entry, &format!("\"{}\"", names[0]))?;
    let found = all.into_iter().find(|one| name(*one) == text);
    if found.is_none() {
        let message = format!("`{}` is not one of {list}", excerpt(text));
        let fix = match super::suggest::suggest(text, &names) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("write one of {list}"),
        };
        reader.refuse(entry, message, &fix);
    }
    found
}

fn read_build(reader: &mut Reader, entry: &Entry<'_>) -> Option<Runtime> {
    const EXAMPLE: &str = "build = { runtime = \"python\" }";
    let table = reader.table(entry, &["runtime", "dockerfile"], EXAMPLE)?;
    if let Some(entry) = table.entry(reader, "dockerfile") {
        reader.refuse(
            &entry,
            "building from a Dockerfile is not available yet; it comes later",
            "write `build = { runtime = \"python\" }` or \"node\", or leave `build` out",
        );
    }
    let Some(entry) = table.entry(reader, "runtime") else {
        if table.entry(reader, "dockerfile").is_none() {
            reader.refuse(
                entry,
                "this says nothing about the build",
                "name a runtime, or leave it out",
            );
        }
        return None;
    };
    one_of(reader, &entry, Runtime::ALL, Runtime::as_str)
}

fn read_run(reader: &mut Reader, entry: &Entry<'_>) -> Option<String> {
    let text = reader.text(entry, "run = \"python3 main.py\"")?.trim();
    if text.is_empty() {
        reader.refuse(entry, "the command is empty", "write a shell line, or leave the key out");
    } else if text.len() > l::COMMAND_LEN_MAX {
        let message = format!("the command is longer than {} bytes", l::COMMAND_LEN_MAX);
        reader.refuse(entry, message, "put it into a file of its own");
    } else if text.contains('\0') {
        reader.refuse(entry, "the command holds a NUL", "leave it out");
    } else {
        return Some(text.to_owned());
    }
    None
}

fn read_root(reader: &mut Reader, entry: &Entry<'_>) -> Option<String> {
    let text = reader.text(entry, "root = \"web\"")?;
    match normal_root(text) {
        Some(root) => Some(root),
        None => {
            let message = format!("`{}` is not a folder of the source", excerpt(text));
            reader.refuse(entry, message, "write a path below the top, as in `services/web`");
            None
        }
    }
}

/// `./web/` becomes `web`, `.` the empty text; nothing for what would lead out.
pub(crate) fn normal_root(text: &str) -> Option<String> {
    if text.starts_with('/')
        || text.len() > l::SOURCE_PATH_LEN_MAX
        || text.chars().any(|c| c.is_control() || c == '\\')
    {
        return None;
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.contains(&"..")).then(|| parts.join("/"))
}

fn read_instances(reader: &mut Reader, entry: &Entry<'_>) -> Option<u32> {
    reader.whole(entry, 1, l::INSTANCES_MAX, "a number of instances", "instances = 2")
}

fn read_cpu(reader: &mut Reader, entry: &Entry<'_>) -> Option<MilliCpu> {
    let cores = reader.number(entry, "cpu = 0.5")?;
    let milli = (cores * 1000.0).round();
    let (min, max) = (f64::from(l::CPU_MIN.0), f64::from(l::CPU_MAX.0));
    if (min..=max).contains(&milli) {
        // In range, so nothing is cut off.
        return Some(MilliCpu(milli as u32));
    }
    let fix = format!("write a number of cores from {} to {}", l::CPU_MIN, l::CPU_MAX);
    reader.refuse(entry, format!("{cores} is not possible"), &fix);
    None
}

fn read_routes(reader: &mut Reader, entry: &Entry<'_>) -> Option<Vec<Route>> {
    const EXAMPLE: &str = "routes = [{ path = \"/\" }]";
    let tables = reader.tables(entry, &["path", "preserve"], EXAMPLE)?;
    if tables.len() > l::ROUTES_PER_COMPONENT_MAX {
        let message = format!("{} routes; {} at most", tables.len(), l::ROUTES_PER_COMPONENT_MAX);
        reader.refuse(entry, message, "let a shorter prefix cover several");
        return None;
    }
    let mut routes: Vec<Route> = Vec::new();
    let mut seen = BTreeSet::new();
    for (line, table) in tables {
        let preserve = table
            .entry(reader, "preserve")
            .and_then(|entry| reader.boolean(&entry, "preserve = true"))
            .unwrap_or(false);
        let Some(path) = read_route_path(reader, entry, line, &table) else { continue };
        if !seen.insert(path.clone()) {
            let message = format!("the route `{path}` stands here twice");
            reader.refuse_at(&entry.path, line, message, "keep one of them");
            continue;
        }
        routes.push(Route { spec: RouteSpec { path, preserve }, line });
    }
    Some(routes)
}

fn read_route_path(
    reader: &mut Reader,
    list: &Entry<'_>,
    line: Option<usize>,
    table: &Section<'_>,
) -> Option<String> {
    let Some(entry) = table.entry(reader, "path") else {
        reader.refuse_at(&list.path, line, "a route has no path", "write `{ path = \"/\" }`");
        return None;
    };
    let text = reader.text(&entry, "path = \"/\"")?;
    match normal_route(text) {
        Ok(path) => Some(path),
        Err(rule) => {
            reader.refuse(&entry, format!("`{}` is not a route: {rule}", excerpt(text)), FIX_ROUTE);
            None
        }
    }
}

const FIX_ROUTE: &str = "write a path as in `/` or `/assets`";

/// Without the slash at its end, so that `/a` and `/a/` are the one route that they are.
fn normal_route(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("it does not begin with `/`");
    }
    if text.len() > l::PATH_LEN_MAX {
        return Err("it is too long");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && !b"?#%\\*{}\"<>|^`".contains(&b)) {
        return Err("it holds a character that is not compared literally");
    }
    let path = text.strip_suffix('/').unwrap_or(text);
    if path.is_empty() {
        return Ok("/".into());
    }
    if path[1..].split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("one of its parts is empty or made of dots");
    }
    Ok(path.to_owned())
}

fn probe_path(reader: &mut Reader, table: &Section<'_>) -> Option<String> {
    let entry = table.entry(reader, "path")?;
    let text = reader.text(&entry, "path = \"/healthz\"")?;
    let good = text.starts_with('/')
        && text.len() <= l::PATH_LEN_MAX
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if good {
        return Some(text.to_owned());
    }
    let message = format!("`{}` is not a path to ask for", excerpt(text));
    reader.refuse(&entry, message, "write a path as in `/healthz`");
    None
}

fn probe_span(
    reader: &mut Reader,
    table: &Section<'_>,
    name: &str,
    min: Millis,
    max: Millis,
) -> Option<Millis> {
    let entry = table.entry(reader, name)?;
    reader.span(&entry, min, max, &format!("{name} = \"5s\""))
}

fn read_health(reader: &mut Reader, entry: &Entry<'_>) -> Option<Health> {
    const EXAMPLE: &str = "health = { path = \"/healthz\" }";
    let known = ["path", "startup", "interval", "timeout"];
    let table = reader.table(entry, &known, EXAMPLE)?;
    let startup = probe_span(reader, &table, "startup", Millis::secs(1), l::STARTUP_MAX);
    let (interval, timeout) = probe_times(reader, &table);
    Some(Health { path: probe_path(reader, &table), startup, interval, timeout })
}

fn probe_times(reader: &mut Reader, table: &Section<'_>) -> (Option<Millis>, Option<Millis>) {
    (
        probe_span(reader, table, "interval", PROBE_INTERVAL_MIN, PROBE_INTERVAL_MAX),
        probe_span(reader, table, "timeout", PROBE_TIMEOUT_MIN, PROBE_TIMEOUT_MAX),
    )
}

fn read_liveness(reader: &mut Reader, entry: &Entry<'_>) -> Option<LivenessSpec> {
    const EXAMPLE: &str = "liveness = { path = \"/livez\" }";
    let known = ["path", "interval", "timeout", "failures"];
    let table = reader.table(entry, &known, EXAMPLE)?;
    let (interval, timeout) = probe_times(reader, &table);
    let failures = table.entry(reader, "failures").and_then(|entry| {
        reader.whole(
            &entry,
            1,
            LIVENESS_FAILURES_MAX,
            "a number of failures in a row",
            "failures = 3",
        )
    });
    if table.entry(reader, "path").is_none() {
        reader.refuse(entry, "a liveness probe has no path", EXAMPLE_LIVENESS_FIX);
    }
    Some(LivenessSpec {
        path: probe_path(reader, &table)?,
        interval: interval.unwrap_or(LIVENESS_INTERVAL_DEFAULT),
        timeout: timeout.unwrap_or(l::HEALTH_TIMEOUT_DEFAULT),
        failures: failures.unwrap_or(LIVENESS_FAILURES_DEFAULT),
    })
}

const EXAMPLE_LIVENESS_FIX: &str = "write it as in `liveness = { path = \"/livez\" }`";

fn read_isolation(reader: &mut Reader, entry: &Entry<'_>) -> Option<Isolation> {
    match reader.text(entry, "isolation = \"standard\"")? {
        "standard" => return Some(Isolation::Standard),
        level @ ("gvisor" | "microvm") => reader.refuse(
            entry,
            format!("the isolation `{level}` is not available yet; it comes later"),
            "write \"standard\", or leave it out",
        ),
        other => reader.refuse(
            entry,
            format!("`{}` is not an isolation", excerpt(other)),
            "write \"standard\", or leave it out",
        ),
    }
    None
}

fn read_stop(reader: &mut Reader, c: &mut Component, entry: &Entry<'_>) {
    const EXAMPLE: &str = "stop = { signal = \"TERM\", grace = \"30s\" }";
    let Some(table) = reader.table(entry, &["signal", "grace"], EXAMPLE) else { return };
    if let Some(entry) = table.entry(reader, "signal") {
        c.signal = one_of(reader, &entry, StopSignal::ALL, StopSignal::as_str);
    }
    if let Some(entry) = table.entry(reader, "grace") {
        c.grace = reader.span(&entry, Millis(0), l::GRACE_MAX, "grace = \"30s\"");
    }
}

fn read_variables(reader: &mut Reader, entry: &Entry<'_>) -> BTreeMap<VariableName, String> {
    let mut variables = BTreeMap::new();
    let Some(table) = reader.any_table(entry, "LOG_LEVEL = \"info\"") else { return variables };
    let entries = table.entries(reader);
    if entries.len() > l::VARIABLES_MAX {
        let message = format!("{} variables; {} at most", entries.len(), l::VARIABLES_MAX);
        reader.refuse(entry, message, "put some of them into a file");
        return variables;
    }
    let mut total = 0;
    for (name, entry) in entries {
        let Some(value) = reader.text(&entry, &format!("{} = \"…\"", excerpt(name))) else {
            continue;
        };
        total += name.len() + value.len();
        match check_variable(name, value) {
            Ok(name) => {
                variables.insert(name, value.to_owned());
            }
            Err((message, fix)) => reader.refuse(&entry, message, fix),
        }
    }
    if total > l::VARIABLES_TOTAL_LEN_MAX {
        let max = Bytes(l::VARIABLES_TOTAL_LEN_MAX as u64);
        let message = format!("all variables together are longer than {max}");
        reader.refuse(entry, message, "put some of them into a file");
    }
    variables
}

fn check_variable(name: &str, value: &str) -> Result<VariableName, (String, &'static str)> {
    let parsed: VariableName = name.parse().map_err(|error: insula_model::names::NameError| {
        (error.to_string(), "choose another name")
    })?;
    if name == "PORT" {
        return Err(("`PORT` is set by the platform".into(), "write `port = …` instead"));
    }
    if name.starts_with("INSULA_") {
        return Err((format!("`{name}` is set by the platform"), "choose another name"));
    }
    if value.len() > l::VARIABLE_VALUE_LEN_MAX {
        let max = Bytes(l::VARIABLE_VALUE_LEN_MAX as u64);
        return Err((format!("the value is longer than {max}"), "put it into a file"));
    }
    if value.contains('\0') {
        return Err(("the value holds a NUL".into(), "leave it out"));
    }
    Ok(parsed)
}
