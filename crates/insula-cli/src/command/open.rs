//! `insula open`: where an app answers, in a browser where there is one.

use std::process::{Command, Stdio};

use serde::Serialize;

use super::unrouted;
use crate::context::{Cx, Guess};
use crate::failure::{Exit, Outcome};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only print the URL
    #[arg(long)]
    print: bool,
}

#[derive(Debug, Serialize)]
struct Opened<'a> {
    url: &'a str,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let app = cx.app(Guess::Harmless).await?;
    let url = unrouted::url(&app)?;
    if cx.terminal.json {
        cx.terminal.print_json(&Opened { url })?;
        return Ok(Exit::OK);
    }
    cx.terminal.print(&unrouted::line(url))?;
    let desktop =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    if !args.print && desktop && cx.terminal.out_is_terminal() && is_web(url) {
        // Handed over as one argument; no shell reads it.
        let opened = Command::new("xdg-open")
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if opened.is_err() {
            cx.terminal.say("no browser was found; open the address yourself");
        }
    }
    Ok(Exit::OK)
}

/// The server says where to go; what it says must be nothing but a page.
fn is_web(url: &str) -> bool {
    (url.starts_with("http://") || url.starts_with("https://"))
        && url.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_are_opened() {
        assert!(is_web("http://hello-3f9k2x.localhost:8080/"));
        for wrong in ["file:///etc/passwd", "--help", "javascript:x", "http://a b", "http://\u{1b}"]
        {
            assert!(!is_web(wrong), "{wrong}");
        }
    }
}
