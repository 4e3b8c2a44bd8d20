//! The whole gate, in one order: what is cheap and often wrong comes first.
//!
//! It stops at the first step that fails and says which. Output of the steps is passed on as it
//! is: the summary of the test runner is read by people and by CI.

mod package;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{arch, doc, double, licence, openapi, process, reason};
use package::Packages;
pub use package::is_root;

pub fn run() -> Result<()> {
    let mut gate = Gate { done: Vec::new() };
    let packages = gate.step("packages", package::provide)?;
    gate.step("format", || process::run(process::cargo().args(["fmt", "--all", "--check"])))?;
    gate.step("arch", || none(arch::check()?))?;
    gate.step("licences", || none(licence::check()?))?;
    gate.step("doubles", || none(double::check()?))?;
    gate.step("reasons", || none(reason::check()?))?;
    gate.step("docs", || none(doc::check()?))?;
    gate.step("clippy", clippy)?;
    let binary = gate.step("build", openapi::build_binary)?;
    gate.step("openapi", || none(openapi::drift(&binary)?))?;
    gate.step("tests", || tests(packages, &binary))?;
    gate.summary();
    Ok(())
}

struct Gate {
    done: Vec<(&'static str, Duration)>,
}

impl Gate {
    fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("==> {name}");
        let started = Instant::now();
        let outcome = work();
        let took = started.elapsed();
        let seconds = took.as_secs_f64();
        match outcome {
            Ok(value) => {
                println!("==> {name}: ok in {seconds:.1} s");
                self.done.push((name, took));
                Ok(value)
            }
            Err(err) => Err(err.context(format!("step `{name}` failed after {seconds:.1} s"))),
        }
    }

    fn summary(&self) {
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        println!("\nThe gate is passed, in {:.1} s:", total.as_secs_f64());
        for (name, took) in &self.done {
            println!("  {name:<10} {:>7.1} s", took.as_secs_f64());
        }
    }
}

/// Finding anything fails the step.
fn none(found: Vec<String>) -> Result<()> {
    for finding in &found {
        eprintln!("{finding}");
    }
    if !found.is_empty() {
        bail!("{} to mend", found.len());
    }
    Ok(())
}

fn clippy() -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    process::run(&mut cargo)
}

/// nextest where it is installed, cargo's own runner where only rustup is.
fn tests(packages: Packages, binary: &Path) -> Result<()> {
    let is_whole = packages == Packages::Complete && package::is_root();
    let has_nextest = process::succeeds(process::cargo().args(["nextest", "--version"]));
    let mut cargo = process::cargo();
    if has_nextest {
        cargo.args(["nextest", "run", "--locked", "--workspace", "--no-fail-fast"]);
    } else {
        println!("cargo-nextest is not installed: cargo test, one test at a time");
        cargo.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
        // Without nextest's groups nothing else keeps two tests of the whole binary apart.
        cargo.env("RUST_TEST_THREADS", "1");
    }
    cargo.env("INSULA_BIN", binary);
    if is_whole {
        cargo.env("INSULA_TEST_ALL", "1");
    } else {
        eprintln!("SKIPPED: tests that need root or a missing package; each says so below");
        // Both runners hide what a test says when it passes, and a test that skips does pass.
        cargo.args(if has_nextest {
            ["--success-output", "final"].as_slice()
        } else {
            ["--", "--show-output"].as_slice()
        });
    }
    process::run(&mut cargo).context("a test failed")
}
