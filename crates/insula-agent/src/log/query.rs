//! Answers a question about the logs of an app: a page of entries in the order of their times.
//!
//! A page is bounded in entries and bytes whatever the app wrote; the cursor leads to the next one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::path::Path;

use insula_model::{AppId, BuildId, ComponentName, InstanceId, Timestamp};

use super::LogError;
use super::cursor::Cursor;
use super::entry::Entry;
use super::layout::{LogRoot, SegmentName};
use super::reader::{InstanceReader, Raw, entries};

/// What a terminal can show and a person read; more is fetched page by page.
pub const PAGE_ENTRIES_MAX: usize = 10_000;
/// What a page may hold in memory.
pub(crate) const PAGE_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Clone)]
pub struct LogQuery {
    pub app: AppId,
    pub component: Option<ComponentName>,
    pub instance: Option<InstanceId>,
    /// From this time on, and before that one.
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Only the last so many of what matches; not together with `after`, which wins.
    pub tail: Option<usize>,
    /// A plain piece of text; not a pattern.
    pub grep: Option<String>,
    /// What comes after an earlier page.
    pub after: Option<Cursor>,
}

impl LogQuery {
    pub fn of(app: AppId) -> Self {
        Self {
            app,
            component: None,
            instance: None,
            since: None,
            until: None,
            tail: None,
            grep: None,
            after: None,
        }
    }

    pub(crate) fn filter(&self) -> Filter<'_> {
        Filter {
            since_ms: self.since.map_or(0, Timestamp::as_millis),
            until_ms: self.until.map_or(i64::MAX, Timestamp::as_millis),
            grep: self.grep.as_deref(),
        }
    }
}

/// Entries, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Where this page ends; ask with it in `after` for the next.
    pub cursor: Cursor,
    /// The page was full: there may be more already.
    pub more: bool,
}

/// Which entries are asked for, whoever wrote them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    since_ms: i64,
    until_ms: i64,
    grep: Option<&'a str>,
}

impl Filter<'_> {
    const ALL: Self = Self { since_ms: 0, until_ms: i64::MAX, grep: None };

    pub(crate) fn entry(&self, raw: Raw, instance: Option<InstanceId>) -> Option<Entry> {
        if raw.ms < self.since_ms || raw.ms >= self.until_ms {
            return None;
        }
        let text = match String::from_utf8(raw.bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        if self.grep.is_some_and(|wanted| !text.contains(wanted)) {
            return None;
        }
        Some(Entry {
            at: Timestamp::from_millis(raw.ms),
            seq: raw.seq,
            stream: raw.stream,
            cut: raw.cut,
            text,
            instance,
        })
    }
}

/// Blocks on the disk; run it where that is allowed.
pub fn query(root: &LogRoot, query: &LogQuery) -> Result<Page, LogError> {
    let read = |source| LogError::Read { path: root.app(query.app), source };
    let dirs = root.instances(query.app, query.component.as_ref(), query.instance).map_err(read)?;
    let sources: Vec<Source> =
        dirs.into_iter().map(|d| Source { instance: Some(d.instance), path: d.path }).collect();
    page(&sources, query.filter(), query.tail, query.after.as_ref()).map_err(read)
}

/// The log of a build, in pages.
pub fn query_build(
    root: &LogRoot,
    build: BuildId,
    tail: Option<usize>,
    after: Option<&Cursor>,
) -> Result<Page, LogError> {
    let path = root.build(build);
    let sources = [Source { instance: None, path: path.clone() }];
    page(&sources, Filter::ALL, tail, after).map_err(|source| LogError::Read { path, source })
}

/// The last lines that an instance (given by its directory) wrote, for the cause of a failure.
pub fn tail_lines(instance: &Path, count: usize) -> Result<Vec<Entry>, LogError> {
    let sources = [Source { instance: None, path: instance.to_owned() }];
    page(&sources, Filter::ALL, Some(count), None)
        .map(|page| page.entries)
        .map_err(|source| LogError::Read { path: instance.to_owned(), source })
}

/// One directory of segments.
struct Source {
    instance: Option<InstanceId>,
    path: std::path::PathBuf,
}

fn page(
    sources: &[Source],
    filter: Filter<'_>,
    tail: Option<usize>,
    after: Option<&Cursor>,
) -> std::io::Result<Page> {
    match (after, tail) {
        (None, Some(count)) => newest(sources, filter, count.min(PAGE_ENTRIES_MAX)),
        (after, _) => forward(sources, filter, after.cloned().unwrap_or_default()),
    }
}

fn forward(sources: &[Source], filter: Filter<'_>, mut cursor: Cursor) -> std::io::Result<Page> {
    let from = cursor.clone();
    let since_ms = filter.since_ms.max(from.since_ms());
    let mut readers = Vec::new();
    let mut heads: Vec<Option<Entry>> = Vec::new();
    // What comes next by time: a source not yet opened stands with a time that it cannot undercut.
    let mut order = BinaryHeap::new();
    for (n, source) in sources.iter().enumerate() {
        let reader = InstanceReader::open(&source.path, since_ms)?;
        if let Some(ms) = reader.no_older_than() {
            order.push(Reverse((ms, n)));
        }
        readers.push(reader);
        heads.push(None);
    }
    let mut page = Page::default();
    let mut bytes = 0;
    while let Some(Reverse((_, n))) = order.pop() {
        let instance = sources[n].instance;
        if let Some(entry) = heads[n].take() {
            if page.entries.len() == PAGE_ENTRIES_MAX || bytes > PAGE_BYTES_MAX {
                page.more = true;
                break;
            }
            bytes += entry.text.len() + size_of::<Entry>();
            cursor.advance(instance, entry.seq, entry.at.as_millis());
            page.entries.push(entry);
        }
        while let Some(raw) = readers[n].next()? {
            if raw.ms >= filter.until_ms {
                break;
            }
            if !from.admits(instance, raw.seq, raw.ms) {
                continue;
            }
            if let Some(entry) = filter.entry(raw, instance) {
                order.push(Reverse((entry.at.as_millis(), n)));
                heads[n] = Some(entry);
                break;
            }
        }
    }
    page.cursor = cursor;
    Ok(page)
}

/// Reads backwards, segment by segment, and no further than needed.
fn newest(sources: &[Source], filter: Filter<'_>, count: usize) -> std::io::Result<Page> {
    // The cursor of an empty answer must still stand at the end.
    let wanted = count.max(1);
    let mut kept: BTreeMap<(i64, usize, u64), Entry> = BTreeMap::new();
    let mut bytes = 0;
    for (n, source) in sources.iter().enumerate() {
        let names = SegmentName::list(&source.path)?;
        for (at, name) in names.iter().enumerate().rev() {
            let newest_ms = names.get(at + 1).map_or(i64::MAX, |next| next.ms);
            let full = kept.len() >= wanted || bytes > PAGE_BYTES_MAX;
            let oldest = kept.first_key_value().map_or(i64::MIN, |(key, _)| key.0);
            if newest_ms < filter.since_ms || (full && newest_ms < oldest) {
                break;
            }
            entries(&source.path, *name, |raw| {
                let Some(entry) = filter.entry(raw, source.instance) else { return };
                bytes += entry.text.len() + size_of::<Entry>();
                kept.insert((entry.at.as_millis(), n, entry.seq), entry);
                while kept.len() > wanted || bytes > PAGE_BYTES_MAX {
                    let Some((_, gone)) = kept.pop_first() else { break };
                    bytes -= gone.text.len() + size_of::<Entry>();
                }
            })?;
        }
    }
    let mut page = Page::default();
    for ((ms, n, seq), entry) in kept {
        page.cursor.advance(sources[n].instance, seq, ms);
        page.entries.push(entry);
    }
    let surplus = page.entries.len().saturating_sub(count);
    page.entries = VecDeque::from(page.entries).split_off(surplus).into();
    Ok(page)
}

#[cfg(test)]
pub(crate) fn read_dir_all(dir: &Path) -> Vec<Entry> {
    let sources = [Source { instance: None, path: dir.to_owned() }];
    page(&sources, Filter::ALL, None, None).unwrap().entries
}
