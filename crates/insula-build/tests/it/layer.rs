//! What a build wrote, packed and laid out again.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use insula_build::layer::{LayerError, LayerLimits, Packed, Removed, pack_layer, unpack_layer};
use insula_model::Bytes;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use tar::{EntryType, Header};

fn pack(top: &Path) -> Result<(Vec<u8>, Packed), LayerError> {
    let mut out = Vec::new();
    let packed = pack_layer(top, &mut out, &LayerLimits::default())?;
    Ok((out, packed))
}

fn unpack(bytes: &[u8]) -> (tempfile::TempDir, Result<Removed, LayerError>) {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("app");
    fs::create_dir(&folder).unwrap();
    let result = unpack_layer(bytes, &folder, &LayerLimits::default());
    (top, result)
}

/// A test that cannot run says so, and fails where nothing may be left out.
fn skip(why: &str) {
    assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "cannot run: {why}");
    eprintln!("SKIPPED: {why}");
}

#[test]
fn what_was_built_comes_back_as_it_was() {
    let top = tempfile::tempdir().unwrap();
    let long = "n".repeat(200);
    fs::create_dir_all(top.path().join(".venv/bin")).unwrap();
    fs::write(top.path().join(".venv/bin/run"), "#!").unwrap();
    let set = |path: &str, mode| {
        fs::set_permissions(top.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    set(".venv/bin/run", 0o4755);
    symlink("/usr/bin/python3", top.path().join(".venv/bin/python")).unwrap();
    symlink(format!("../{long}"), top.path().join("long")).unwrap();
    fs::write(top.path().join(&long), "x".repeat(100_000)).unwrap();
    fs::create_dir(top.path().join("closed")).unwrap();
    fs::write(top.path().join("closed/in"), "").unwrap();
    set("closed", 0o555);
    let (bytes, packed) = pack(top.path()).unwrap();
    assert_eq!(packed.size, Bytes(100_002));
    assert_eq!(bytes, pack(top.path()).unwrap().0);
    set("closed", 0o755);

    let (out, removed) = unpack(&bytes);
    assert_eq!(removed.unwrap(), Removed::default());
    let at = |path: &str| out.path().join("app").join(path);
    let mode = |path: &str| fs::symlink_metadata(at(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode(".venv/bin/run"), 0o755);
    assert_eq!(mode("closed"), 0o555);
    assert_eq!(fs::read_link(at(".venv/bin/python")).unwrap(), Path::new("/usr/bin/python3"));
    assert_eq!(fs::read_link(at("long")).unwrap(), Path::new(&format!("../{long}")));
    assert_eq!(fs::read_to_string(at(&long)).unwrap().len(), 100_000);
    let time = |path: &Path| fs::metadata(path).unwrap().mtime();
    assert_eq!(time(&at(&long)), time(&top.path().join(&long)));
    fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_does_not_travel_is_named() {
    let top = tempfile::tempdir().unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, top.path().join("pipe"), FileType::Fifo, mode, 0).unwrap();
    fs::write(top.path().join("a"), "").unwrap();
    let (_, packed) = pack(top.path()).unwrap();
    assert_eq!(packed.skipped, ["pipe"]);
}

#[test]
fn what_an_overlay_removed_is_a_list() {
    let top = tempfile::tempdir().unwrap();
    fs::create_dir_all(top.path().join("made/again")).unwrap();
    fs::write(top.path().join("made/again/x"), "").unwrap();
    let whiteout = top.path().join("made/gone");
    let mode = Mode::from_raw_mode(0o600);
    if mknodat(CWD, &whiteout, FileType::CharacterDevice, mode, 0).is_err() {
        return skip("whiteouts need root or a newer kernel");
    }
    let opaque = |name| setxattr(top.path().join("made/again"), name, b"y", XattrFlags::empty());
    if opaque("trusted.overlay.opaque").or_else(|_| opaque("user.overlay.opaque")).is_err() {
        return skip("this filesystem keeps no extended attributes");
    }
    let (bytes, packed) = pack(top.path()).unwrap();
    let expected = Removed { paths: vec!["made/gone".into()], folders: vec!["made/again".into()] };
    assert_eq!(packed.removed, expected);
    let (out, removed) = unpack(&bytes);
    assert_eq!(removed.unwrap(), expected);
    assert!(!out.path().join("app/made/gone").exists());
}

#[test]
fn a_build_that_wrote_too_much_is_refused() {
    let top = tempfile::tempdir().unwrap();
    // A hole takes no room where it is, and all of it elsewhere.
    fs::File::create(top.path().join("hole")).unwrap().set_len(10 << 40).unwrap();
    assert!(matches!(pack(top.path()), Err(LayerError::TooLarge { .. })));
    let few = LayerLimits { entries: 2, ..LayerLimits::default() };
    let top = tempfile::tempdir().unwrap();
    for n in 0..3 {
        fs::write(top.path().join(n.to_string()), "").unwrap();
    }
    let refused = pack_layer(top.path(), &mut Vec::new(), &few);
    assert!(matches!(refused, Err(LayerError::TooMany { max: 2 })));
}

#[test]
fn packing_follows_no_link() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("app");
    fs::create_dir(&folder).unwrap();
    symlink("/etc", folder.join("etc")).unwrap();
    let (bytes, packed) = pack(&folder).unwrap();
    assert_eq!((packed.entries, packed.size), (1, Bytes(0)));
    let (out, _) = unpack(&bytes);
    assert!(fs::symlink_metadata(out.path().join("app/etc")).unwrap().is_symlink());
    // The top itself may not be one either.
    symlink(&folder, top.path().join("alias")).unwrap();
    assert!(matches!(pack(&top.path().join("alias")), Err(LayerError::Open { .. })));
}

/// A layer as a stranger would write it.
fn forged(items: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (kind, name, target, body) in items {
        let mut header = Header::new_gnu();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o7777);
        header.set_size(body.len() as u64);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, body.as_bytes()).unwrap();
    }
    let mut encoder = builder.into_inner().unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

const LIST: (EntryType, &str, &str, &str) =
    (EntryType::Regular, "layer.json", "", r#"{"schema":1,"removed":{"paths":[],"folders":[]}}"#);

fn refused(items: &[(EntryType, &str, &str, &str)]) -> LayerError {
    let (out, result) = unpack(&forged(items));
    let beside: Vec<_> =
        fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside, ["app"], "something was written outside");
    result.unwrap_err()
}

#[test]
fn a_forged_layer_writes_nothing_outside() {
    use EntryType::{Directory, Regular, Symlink};
    for name in ["tree/../evil", "tree/../../evil", "tree//evil", "tree/a/../../../evil", "tree/"] {
        let error = refused(&[LIST, (Regular, name, "", "x")]);
        assert!(matches!(error, LayerError::NotOurs { .. }), "{name}: {error}");
    }
    for name in ["/evil", "../evil", "evil", "layer.json"] {
        let error = refused(&[LIST, (Regular, name, "", "x")]);
        assert!(matches!(error, LayerError::NotOurs { .. }), "{name}: {error}");
    }
    // Through a link that the layer has made before.
    let link = (Symlink, "tree/out", "..", "");
    for through in [(Regular, "tree/out/evil", "", "x"), (Directory, "tree/out/evil", "", "")] {
        let error = refused(&[LIST, link, through]);
        assert!(matches!(error, LayerError::Io { .. }), "{error}");
    }
    let error =
        refused(&[LIST, (Symlink, "tree/out", "../evil", ""), (Regular, "tree/out", "", "x")]);
    assert!(matches!(error, LayerError::Io { .. }), "{error}");
}

#[test]
fn a_forged_layer_makes_no_devices_and_no_hard_links() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::Link] {
        let error = refused(&[LIST, (kind, "tree/x", "/etc/shadow", "")]);
        assert!(matches!(error, LayerError::Archive(_)), "{error}");
    }
}

#[test]
fn a_forged_layer_gives_nobody_rights() {
    let (out, result) = unpack(&forged(&[LIST, (EntryType::Regular, "tree/su", "", "x")]));
    result.unwrap();
    assert_eq!(fs::metadata(out.path().join("app/su")).unwrap().mode() & 0o7000, 0);
}

#[test]
fn a_forged_list_is_refused() {
    for json in [
        "",
        "[]",
        r#"{"schema":2,"removed":{"paths":[],"folders":[]}}"#,
        r#"{"schema":1,"removed":{"paths":["../x"],"folders":[]}}"#,
        r#"{"schema":1,"removed":{"paths":[],"folders":["/etc"]}}"#,
        r#"{"schema":1,"removed":{"paths":[],"folders":[]},"more":1}"#,
    ] {
        let error = refused(&[(EntryType::Regular, "layer.json", "", json)]);
        assert!(matches!(error, LayerError::NotOurs { .. }), "{json}: {error}");
    }
    let error = refused(&[(EntryType::Regular, "tree/x", "", "")]);
    assert!(matches!(error, LayerError::NotOurs { .. }));
}

#[test]
fn a_layer_that_is_too_large_or_cut_off_is_refused() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("a"), "x".repeat(10_000)).unwrap();
    let (bytes, _) = pack(top.path()).unwrap();
    let small = LayerLimits { total: Bytes::kib(1), entries: 10 };
    let out = tempfile::tempdir().unwrap();
    let error = unpack_layer(bytes.as_slice(), out.path(), &small).unwrap_err();
    assert!(matches!(error, LayerError::TooLarge { .. }), "{error}");
    for cut in [0, 10, bytes.len() / 2, bytes.len() - 1] {
        let (_, result) = unpack(&bytes[..cut]);
        assert!(matches!(result, Err(LayerError::Archive(_))), "{cut}");
    }
}
