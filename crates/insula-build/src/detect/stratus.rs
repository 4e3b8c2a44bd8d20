//! Folders made for our predecessor, Stratus: `stratus_init.sh` at the top starts everything.
//!
//! Stratus unpacked the folder at `/app`, made the script executable and started it there; the app
//! listens on 8080. Nothing is installed for it: the script does what it needs.

use insula_model::spec::{ComponentKind, Runtime};

use super::{Cx, Guess};
use crate::source::{Folder, Text};

pub const SCRIPT: &str = "stratus_init.sh";

pub fn guess(cx: &mut Cx<'_>, top: Folder<'_>) -> Option<Guess> {
    let file = top.file(SCRIPT)?;
    let begins = match top.text(SCRIPT) {
        Text::Read(text) => text,
        // A script need not be text that we understand; its first line is for the kernel.
        Text::Absent | Text::Binary | Text::TooLarge(_) | Text::NotRead => "#!",
    };
    if begins.lines().next().is_some_and(|line| line.starts_with("#!") && begins.contains("\r\n")) {
        cx.warn(format!(
            "{SCRIPT} has the line ends of Windows; its first line may not be understood"
        ));
    }
    let run = match (begins.starts_with("#!"), file.executable) {
        (true, true) => format!("exec ./{SCRIPT}"),
        (true, false) => format!("chmod +x ./{SCRIPT}; exec ./{SCRIPT}"),
        (false, _) => format!("exec sh ./{SCRIPT}"),
    };
    Some(Guess {
        kind: ComponentKind::Service,
        runtime: Runtime::Host,
        run: Some(run),
        root: String::new(),
        installs: None,
    })
}
