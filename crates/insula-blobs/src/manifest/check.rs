//! What a manifest may say. One rule per attack, each with a test.

use std::collections::BTreeMap;

use insula_model::limits::{
    SOURCE_DEPTH_MAX, SOURCE_FILE_MAX, SOURCE_FILES_MAX, SOURCE_PATH_LEN_MAX, SOURCE_TOTAL_MAX,
};
use insula_model::{Bytes, Digest};

use super::{Entry, MANIFEST_BYTES_MAX, Node, SCHEMA, links};

/// What Linux allows for one name.
const NAME_BYTES_MAX: usize = 255;

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("read the manifest")]
    Form {
        #[source]
        source: serde_json::Error,
    },
    #[error("the manifest has schema {schema}; this program knows {SCHEMA}")]
    Schema { schema: u32 },
    #[error("the manifest is {bytes} long; {MANIFEST_BYTES_MAX} are read")]
    TooLong { bytes: Bytes },
    #[error("the manifest is not in its canonical form")]
    NotCanonical,
    #[error("{entries} files, links and empty folders; a source may have {SOURCE_FILES_MAX}")]
    TooMany { entries: usize },
    #[error("`{path}` {why}")]
    Path { path: String, why: PathFault },
    #[error("`{path}` is there twice, or out of order")]
    Order { path: String },
    #[error("`{path}` lies below `{above}`, which is not a folder")]
    BelowNoFolder { path: String, above: String },
    #[error("the folder `{path}` is listed although it is not empty")]
    NotEmpty { path: String },
    #[error("`{path}` links to `{target}`, which {why}")]
    Link { path: String, target: String, why: links::LinkFault },
    #[error("`{path}` is {size}; a file of a source may be {SOURCE_FILE_MAX}")]
    FileTooLarge { path: String, size: Bytes },
    #[error("the files are more than {SOURCE_TOTAL_MAX} together")]
    TooLarge,
    #[error("`{path}` has an empty chunk, or one of another size than elsewhere")]
    Chunk { path: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("is not a relative path in its plain form (`a/b`)")]
    NotPlain,
    #[error("leads out of the folder")]
    Leaves,
    #[error("has a control character in its name")]
    Control,
    #[error("is longer than {SOURCE_PATH_LEN_MAX} bytes, or a name in it than {NAME_BYTES_MAX}")]
    TooLong,
    #[error("is more than {SOURCE_DEPTH_MAX} folders deep")]
    TooDeep,
}

pub(super) fn check(entries: &[Entry]) -> Result<(), ManifestError> {
    if entries.len() > SOURCE_FILES_MAX {
        return Err(ManifestError::TooMany { entries: entries.len() });
    }
    for entry in entries {
        check_path(&entry.path)
            .map_err(|why| ManifestError::Path { path: shown(&entry.path), why })?;
    }
    for pair in entries.windows(2) {
        if pair[0].path >= pair[1].path {
            return Err(ManifestError::Order { path: shown(&pair[1].path) });
        }
    }
    let nodes: BTreeMap<&str, &Node> =
        entries.iter().map(|entry| (entry.path.as_str(), &entry.node)).collect();
    check_folders(entries, &nodes)?;
    check_sizes(entries)?;
    links::check(entries, &nodes)
}

fn check_path(path: &str) -> Result<(), PathFault> {
    if path.len() > SOURCE_PATH_LEN_MAX {
        return Err(PathFault::TooLong);
    }
    let mut depth = 0;
    for name in path.split('/') {
        match name {
            "" | "." => return Err(PathFault::NotPlain),
            ".." => return Err(PathFault::Leaves),
            _ if name.len() > NAME_BYTES_MAX => return Err(PathFault::TooLong),
            // Also NUL, which would end the name early for the kernel.
            _ if name.chars().any(char::is_control) => return Err(PathFault::Control),
            _ => depth += 1,
        }
    }
    if depth > SOURCE_DEPTH_MAX { Err(PathFault::TooDeep) } else { Ok(()) }
}

fn check_folders(entries: &[Entry], nodes: &BTreeMap<&str, &Node>) -> Result<(), ManifestError> {
    for entry in entries {
        for (at, _) in entry.path.match_indices('/') {
            let above = &entry.path[..at];
            match nodes.get(above) {
                None => {}
                Some(Node::Dir) => {
                    return Err(ManifestError::NotEmpty { path: shown(above) });
                }
                Some(Node::File { .. } | Node::Symlink { .. }) => {
                    let path = shown(&entry.path);
                    return Err(ManifestError::BelowNoFolder { path, above: shown(above) });
                }
            }
        }
    }
    Ok(())
}

fn check_sizes(entries: &[Entry]) -> Result<(), ManifestError> {
    let mut sizes: BTreeMap<Digest, Bytes> = BTreeMap::new();
    let mut total = 0_u64;
    for entry in entries {
        for chunk in entry.node.chunks() {
            let size = *sizes.entry(chunk.digest).or_insert(chunk.size);
            if size != chunk.size || size.0 == 0 {
                return Err(ManifestError::Chunk { path: shown(&entry.path) });
            }
        }
        let size = entry.node.size();
        if size > SOURCE_FILE_MAX {
            return Err(ManifestError::FileTooLarge { path: shown(&entry.path), size });
        }
        // At most 100,000 times 512 MiB.
        total += size.0;
    }
    if total > SOURCE_TOTAL_MAX.0 { Err(ManifestError::TooLarge) } else { Ok(()) }
}

/// A stranger's path as it may be shown: without what moves a terminal's cursor, and not a page.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 120;
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(SHOWN_CHARS_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Chunk, Manifest};
    use super::*;

    fn file(path: &str) -> Entry {
        Entry::file(path, Digest::from_sha256([1; 32]), Bytes(1), false)
    }

    fn fault(path: &str) -> PathFault {
        match Manifest::new(vec![file(path)]) {
            Err(ManifestError::Path { why, .. }) => why,
            other => panic!("{path:?}: {other:?}"),
        }
    }

    #[test]
    fn an_absolute_path_is_refused() {
        assert_eq!(fault("/etc/passwd"), PathFault::NotPlain);
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        for path in ["..", "../x", "a/../../x", "a/..", "a/../b"] {
            assert_eq!(fault(path), PathFault::Leaves, "{path}");
        }
    }

    #[test]
    fn a_path_with_two_spellings_is_refused() {
        for path in ["", ".", "./a", "a/./b", "a//b", "a/"] {
            assert_eq!(fault(path), PathFault::NotPlain, "{path}");
        }
    }

    #[test]
    fn a_name_that_ends_early_or_moves_the_cursor_is_refused() {
        for path in ["a\0b", "a\nb", "a\u{1b}[2Jb", "a\u{7f}", "a\u{9b}m"] {
            assert_eq!(fault(path), PathFault::Control, "{path:?}");
        }
        let text = Manifest::new(vec![file("a\u{1b}b")]).unwrap_err().to_string();
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn what_is_too_long_or_deep_is_refused() {
        assert_eq!(fault(&"x".repeat(256)), PathFault::TooLong);
        assert_eq!(fault(&"xxxxxxxxx/".repeat(103)), PathFault::TooLong);
        assert_eq!(fault(&format!("{}x", "d/".repeat(64))), PathFault::TooDeep);
        assert!(Manifest::new(vec![file(&format!("{}x", "d/".repeat(63)))]).is_ok());
    }

    #[test]
    fn too_many_entries_are_refused() {
        let entries = (0..=SOURCE_FILES_MAX).map(|n| Entry::dir(n.to_string())).collect();
        assert!(matches!(Manifest::new(entries), Err(ManifestError::TooMany { .. })));
    }

    #[test]
    fn a_path_given_twice_is_refused() {
        let twice = vec![file("a"), Entry::symlink("a", "b")];
        assert!(matches!(Manifest::new(twice), Err(ManifestError::Order { .. })));
        let unsorted =
            br#"{"schema":1,"entries":[{"path":"b","kind":"dir"},{"path":"a","kind":"dir"}]}"#;
        assert!(matches!(Manifest::decode(unsorted), Err(ManifestError::Order { .. })));
    }

    #[test]
    fn a_file_below_a_file_or_a_link_is_refused() {
        for above in [file("a"), Entry::symlink("a", "b")] {
            for below in ["a/x", "a/b/c"] {
                // `a-` sorts between `a` and `a/x`, which must not hide the one from the other.
                let entries = vec![above.clone(), file("a-"), file(below)];
                let refused = Manifest::new(entries);
                assert!(matches!(refused, Err(ManifestError::BelowNoFolder { .. })), "{below}");
            }
        }
    }

    #[test]
    fn a_folder_has_one_way_to_be_listed() {
        let text =
            br#"{"schema":1,"entries":[{"path":"a","kind":"dir"},{"path":"a/b","kind":"dir"}]}"#;
        assert!(matches!(Manifest::decode(text), Err(ManifestError::NotEmpty { .. })));
    }

    #[test]
    fn sizes_beyond_the_limits_are_refused_and_do_not_overflow() {
        let sized = |path: &str, byte, size| {
            Entry::file(path, Digest::from_sha256([byte; 32]), Bytes(size), false)
        };
        let one = Manifest::new(vec![sized("a", 1, SOURCE_FILE_MAX.0 + 1)]);
        assert!(matches!(one, Err(ManifestError::FileTooLarge { .. })));
        let all = (0..3).map(|n| sized(&n.to_string(), n, SOURCE_FILE_MAX.0)).collect();
        assert!(matches!(Manifest::new(all), Err(ManifestError::TooLarge)));
        let chunk = |byte| Chunk { digest: Digest::from_sha256([byte; 32]), size: Bytes(u64::MAX) };
        let node = Node::File { executable: false, chunks: vec![chunk(1), chunk(2)] };
        let huge = Manifest::new(vec![Entry { path: "a".into(), node }]);
        assert!(matches!(huge, Err(ManifestError::FileTooLarge { .. })));
    }

    #[test]
    fn a_chunk_has_one_size_and_it_is_not_zero() {
        let digest = Digest::from_sha256([1; 32]);
        let differing = vec![
            Entry::file("a", digest, Bytes(1), false),
            Entry::file("b", digest, Bytes(2), false),
        ];
        assert!(matches!(Manifest::new(differing), Err(ManifestError::Chunk { .. })));
        let chunks = vec![Chunk { digest, size: Bytes(0) }];
        let node = Node::File { executable: false, chunks };
        let empty = Manifest::new(vec![Entry { path: "a".into(), node }]);
        assert!(matches!(empty, Err(ManifestError::Chunk { .. })));
    }
}
