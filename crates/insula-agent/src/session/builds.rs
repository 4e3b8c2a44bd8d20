//! Reads the log of a build while it is being written.
//!
//! A build's log is sealed when the build is over, so its end can be seen on disk; until then it is
//! looked at again and again, as only few people watch a build and it lasts minutes.

use std::time::Duration;

use insula_model::BuildId;
use tokio::task::spawn_blocking;

use crate::log::{Cursor, LogError, LogRoot, Page, SegmentName, query_build};

/// Looks as immediate to a person, and costs a directory listing.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Yes,
    No,
}

#[derive(Debug)]
pub struct Pages {
    root: LogRoot,
    build: BuildId,
    tail: Option<usize>,
    after: Option<Cursor>,
}

impl Pages {
    pub fn new(root: LogRoot, build: BuildId, tail: Option<usize>) -> Self {
        Self { root, build, tail, after: None }
    }

    /// What is new, and whether anything can follow.
    pub async fn next(&mut self) -> Result<(Page, Ended), LogError> {
        let (root, build) = (self.root.clone(), self.build);
        let (tail, after) = (self.tail.take(), self.after.clone());
        let read = spawn_blocking(move || {
            // Asked first: what is written in between is read, and asked for once more.
            let over = is_sealed(&root, build);
            query_build(&root, build, tail, after.as_ref()).map(|page| (page, over))
        });
        let (page, over) = read.await.map_err(LogError::Thread)??;
        if !page.entries.is_empty() {
            self.after = Some(page.cursor.clone());
        }
        let ended = if over && !page.more { Ended::Yes } else { Ended::No };
        Ok((page, ended))
    }

    pub async fn wait(&self) {
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

fn is_sealed(root: &LogRoot, build: BuildId) -> bool {
    let names = std::fs::read_dir(root.build(build)).into_iter().flatten().flatten();
    let mut newest: Option<SegmentName> = None;
    for name in names.filter_map(|entry| SegmentName::parse(entry.file_name().to_str()?)) {
        newest = newest.max(Some(name));
    }
    newest.is_some_and(|name| name.sealed)
}
