//! Chores of the repository, in Rust so that they need nothing but cargo.
//!
//! `cargo xtask test` is the whole gate; the others are its parts and the measurements.
//! Nothing here is linked into the product, and nothing of the product is linked in here:
//! building this must stay a matter of seconds.

mod arch;
mod bench;
mod doc;
mod double;
mod gate;
mod guest;
mod licence;
mod machine;
mod metadata;
mod openapi;
mod process;
mod reason;
mod source;
mod tree;

use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "\
cargo xtask <chore>

  test              the whole gate: format, rules, lints, build, every test
  arch              which crate may use which, purity, where `unsafe` and SQL may stand
  licences          every third-party licence is on the list
  doubles           no crate is there in two versions without a reason
  reasons           every crate that we chose stands in the decision about dependencies
  docs              links between our pages lead somewhere
  openapi [--check] write openapi/public.json from the binary, or compare it
  bench NAME        measure one thing and print a table
  soak NAME         run one thing for long and print what broke
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test"] => gate::run(),
        ["arch"] => report("arch", arch::check()),
        ["licences"] => report("licences", licence::check()),
        ["doubles"] => report("doubles", double::check()),
        ["reasons"] => report("reasons", reason::check()),
        ["docs"] => report("docs", doc::check()),
        ["openapi"] => openapi::write(),
        ["openapi", "--check"] => report("openapi", openapi::check()),
        ["bench", name] => bench::run(bench::Kind::Bench, name),
        ["bench"] => bench::list(bench::Kind::Bench),
        ["soak", name] => bench::run(bench::Kind::Soak, name),
        ["soak"] => bench::list(bench::Kind::Soak),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what a check found; finding anything is a failure.
fn report(check: &str, found: Result<Vec<String>>) -> Result<()> {
    let found = found?;
    if found.is_empty() {
        println!("{check}: ok");
        return Ok(());
    }
    for finding in &found {
        eprintln!("{check}: {finding}");
    }
    anyhow::bail!("{check}: {} to mend", found.len())
}
