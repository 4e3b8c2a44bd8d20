//! `insula explain`: the page of an error code, without a network.

use insula_wire::problem;
use serde::Serialize;

use crate::failure::{Exit, Failure, Outcome};
use crate::show::Terminal;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// As it stands behind `code:`: quota_exceeded, cause-exited
    code: String,
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    code: &'a str,
    page: &'a str,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let page = problem::page(&args.code)
        .ok_or_else(|| Failure::not_found(format!("there is no code `{}`", args.code)))?;
    if terminal.json {
        terminal.print_json(&Page { code: &args.code, page })?;
    } else {
        terminal.print(page)?;
    }
    Ok(Exit::OK)
}
