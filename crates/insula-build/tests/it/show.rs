//! Sources as they are written in a test, and what detection makes of them as text.

use std::fmt::Write as _;
use std::path::Path;

use insula_build::{Detected, Problems, SourceFile, SourceView, detect};
use insula_model::spec::{ComponentKind, ComponentSpec};

/// A source of some files, all of them handed in if they are wanted.
pub fn source(files: &[(&str, &str)]) -> SourceView {
    let listed = files.iter().map(|(path, text)| SourceFile {
        path: (*path).into(),
        size: text.len() as u64,
        executable: false,
    });
    let mut view = SourceView::new(listed);
    let wanted: Vec<String> = view.wanted().into_iter().map(str::to_owned).collect();
    for path in wanted {
        let (_, text) = files.iter().find(|(name, _)| *name == path).unwrap();
        view.put(&path, text.as_bytes().to_vec());
    }
    view
}

pub fn seen(files: &[(&str, &str)]) -> String {
    outcome(detect(&source(files)))
}

pub fn outcome(result: Result<Detected, Problems>) -> String {
    match result {
        Ok(detected) => detected_text(&detected),
        Err(problems) => format!("{problems}\n"),
    }
}

fn detected_text(detected: &Detected) -> String {
    let mut out = String::new();
    assert_eq!(detected.app, detected.spec.app);
    assert_eq!(detected.warnings, detected.plan.warnings);
    if let Some(app) = &detected.app {
        writeln!(out, "app {app}").unwrap();
    }
    for (name, spec) in &detected.spec.components {
        write!(out, "{name}: {} on {}", spec.kind, spec.runtime).unwrap();
        if !spec.root.is_empty() {
            write!(out, " in {}", spec.root).unwrap();
        }
        for route in &spec.routes {
            let kept = if route.preserve { " (kept)" } else { "" };
            write!(out, " at {}{kept}", route.path).unwrap();
        }
        out.push('\n');
        if let Some(run) = &spec.run {
            writeln!(out, "  $ {run}").unwrap();
        }
        let unusual = unusual(spec);
        if !unusual.is_empty() {
            writeln!(out, "  {}", unusual.join(", ")).unwrap();
        }
    }
    for step in &detected.plan.steps {
        let place = if step.dir.is_empty() { String::new() } else { format!(" in {}", step.dir) };
        writeln!(out, "build{place}: {} ({}): {:?}", step.name, step.runtime, step.argv).unwrap();
    }
    for warning in &detected.warnings {
        writeln!(out, "warning: {warning}").unwrap();
    }
    out
}

/// What differs from the defaults of its kind.
fn unusual(spec: &ComponentSpec) -> Vec<String> {
    let usual = ComponentSpec::of_kind(spec.kind);
    let mut out = Vec::new();
    let mut tell = |name: &str, is: String, was: String| {
        if is != was {
            out.push(format!("{name} {is}"));
        }
    };
    if spec.kind == ComponentKind::Service || spec.kind == ComponentKind::Static {
        tell("port", spec.port.to_string(), usual.port.to_string());
    }
    tell("instances", spec.instances.to_string(), usual.instances.to_string());
    tell("cpu", spec.cpu.to_string(), usual.cpu.to_string());
    tell("memory", spec.memory.to_string(), usual.memory.to_string());
    tell("pids", spec.pids.to_string(), usual.pids.to_string());
    tell("disk", spec.disk.to_string(), usual.disk.to_string());
    tell("single", spec.single.to_string(), usual.single.to_string());
    tell("failover", spec.failover.as_str().into(), usual.failover.as_str().into());
    tell("rollout", format!("{:?}", spec.rollout), format!("{:?}", usual.rollout));
    tell("placement", format!("{:?}", spec.placement), format!("{:?}", usual.placement));
    tell("drain", spec.drain.to_string(), usual.drain.to_string());
    tell("stop", format!("{:?}", spec.stop), format!("{:?}", usual.stop));
    tell("health", format!("{:?}", spec.health), format!("{:?}", usual.health));
    tell("liveness", format!("{:?}", spec.liveness), format!("{:?}", usual.liveness));
    tell("variables", format!("{:?}", spec.variables), format!("{:?}", usual.variables));
    out
}

/// A folder of this repository, with everything that is in it.
pub fn example(name: &str) -> SourceView {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    let mut files = Vec::new();
    list(&top, "", &mut files);
    let mut view = SourceView::new(files);
    let wanted: Vec<String> = view.wanted().into_iter().map(str::to_owned).collect();
    for path in wanted {
        view.put(&path, std::fs::read(top.join(&path)).unwrap());
    }
    view
}

fn list(top: &Path, below: &str, files: &mut Vec<SourceFile>) {
    for entry in std::fs::read_dir(top.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type().unwrap().is_dir() {
            list(top, &path, files);
        } else {
            let size = entry.metadata().unwrap().len();
            files.push(SourceFile { path, size, executable: false });
        }
    }
}
