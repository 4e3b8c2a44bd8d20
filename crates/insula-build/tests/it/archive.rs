//! Archives made here, honest and hostile, and what comes of them.

use std::io::{Cursor, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use insula_build::archive::{ArchiveError, FileHead, Kind, Limits, Refusal, read, read_stream};
use insula_build::{Entry, Node};
use insula_model::Bytes;
use tar::{EntryType, Header};

/// A tar header whose name is what the test says, which the tar crate would not let pass.
fn header(kind: EntryType, name: &[u8], target: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name);
    gnu.linkname[..target.len()].copy_from_slice(target);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

#[derive(Clone, Copy)]
struct Item<'a>(EntryType, &'a [u8], &'a [u8], &'a [u8]);

fn file<'a>(name: &'a str, body: &'a str) -> Item<'a> {
    Item(EntryType::Regular, name.as_bytes(), b"", body.as_bytes())
}

fn folder(name: &str) -> Item<'_> {
    Item(EntryType::Directory, name.as_bytes(), b"", b"")
}

fn link<'a>(name: &'a str, target: &'a str) -> Item<'a> {
    Item(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
}

fn tar_of(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for Item(kind, name, target, body) in items {
        let header = header(*kind, name, target, body.len() as u64);
        builder.append(&header, *body).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn take(_: FileHead<'_>, body: &mut dyn Read) -> std::io::Result<String> {
    let mut text = String::new();
    body.read_to_string(&mut text)?;
    Ok(text)
}

fn open_with(
    kind: Kind,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Vec<Entry<String>>, ArchiveError> {
    read(kind, Cursor::new(bytes), limits, &mut take)
}

fn open(kind: Kind, bytes: &[u8]) -> Result<Vec<Entry<String>>, ArchiveError> {
    open_with(kind, bytes, &Limits::default())
}

fn listed(entries: &[Entry<String>]) -> Vec<String> {
    let line = |entry: &Entry<String>| match &entry.node {
        Node::File { executable, contents, .. } => {
            format!("{}{} = {contents}", entry.path, if *executable { " x" } else { "" })
        }
        Node::Symlink { target } => format!("{} -> {target}", entry.path),
        Node::Dir => format!("{}/", entry.path),
    };
    entries.iter().map(line).collect()
}

fn refused_tar(items: &[Item<'_>]) -> ArchiveError {
    let plain = open(Kind::Tar, &tar_of(items)).unwrap_err();
    let compressed = open(Kind::TarGz, &gz(&tar_of(items))).unwrap_err();
    assert_eq!(plain.to_string(), compressed.to_string());
    plain
}

/// One entry of a zip, written byte by byte, so that it can lie.
#[derive(Clone)]
struct Zipped {
    name: Vec<u8>,
    local_name: Vec<u8>,
    body: Vec<u8>,
    flags: u16,
    method: u16,
    size: u32,
    crc: u32,
    mode: u32,
}

impl Zipped {
    fn stored(name: &str, body: &str) -> Self {
        let mut crc = flate2::Crc::new();
        crc.update(body.as_bytes());
        Self {
            name: name.into(),
            local_name: name.into(),
            body: body.into(),
            flags: 0,
            method: 0,
            size: body.len() as u32,
            crc: crc.sum(),
            mode: 0o100_644,
        }
    }

    fn deflated(name: &str, body: &[u8]) -> Self {
        let mut crc = flate2::Crc::new();
        crc.update(body);
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).unwrap();
        let packed = encoder.finish().unwrap();
        let stored = Self::stored(name, "");
        Self { body: packed, method: 8, size: body.len() as u32, crc: crc.sum(), ..stored }
    }
}

fn zip_of(items: &[Zipped]) -> Vec<u8> {
    zip_at(items, |_, at| at)
}

/// As `zip_of`, where the list says of each entry that it begins elsewhere.
fn zip_at(items: &[Zipped], place: impl Fn(usize, u32) -> u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut list = Vec::new();
    for (n, item) in items.iter().enumerate() {
        let at = place(n, out.len() as u32);
        let sizes: Vec<u8> = [item.crc, item.body.len() as u32, item.size]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        let words = |words: &[u16]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
        out.extend(b"PK\x03\x04");
        out.extend(words(&[20, item.flags, item.method, 0, 0]));
        out.extend(&sizes);
        out.extend(words(&[item.local_name.len() as u16, 0]));
        out.extend(&item.local_name);
        out.extend(&item.body);
        list.extend(b"PK\x01\x02");
        list.extend(words(&[3 << 8 | 20, 20, item.flags, item.method, 0, 0]));
        list.extend(&sizes);
        list.extend(words(&[item.name.len() as u16, 0, 0, 0, 0]));
        list.extend((item.mode << 16).to_le_bytes());
        list.extend(at.to_le_bytes());
        list.extend(&item.name);
    }
    let count = (items.len() as u16).to_le_bytes();
    let (start, length) = (out.len() as u32, list.len() as u32);
    out.extend(list);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count);
    out.extend(count);
    out.extend(length.to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

fn refused_zip(items: &[Zipped]) -> ArchiveError {
    open(Kind::Zip, &zip_of(items)).unwrap_err()
}

#[test]
fn a_tar_is_read() {
    let items =
        [folder("./"), file("./main.py", "print()"), folder("a/b/"), link("a/l", "../main.py")];
    let bytes = tar_of(&items);
    assert_eq!(Kind::of(&bytes), Some(Kind::Tar));
    let expected = ["a/b/", "a/l -> ../main.py", "main.py = print()"];
    assert_eq!(listed(&open(Kind::Tar, &bytes).unwrap()), expected);
    let bytes = gz(&bytes);
    assert_eq!(Kind::of(&bytes), Some(Kind::TarGz));
    assert_eq!(listed(&open(Kind::TarGz, &bytes).unwrap()), expected);
    let streamed = read_stream(true, bytes.as_slice(), &Limits::default(), &mut take).unwrap();
    assert_eq!(listed(&streamed), expected);
}

#[test]
fn a_zip_of_other_programs_is_read() {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    writer.add_directory("empty/", options).unwrap();
    writer.start_file("run.sh", options.unix_permissions(0o755)).unwrap();
    writer.write_all(b"#!/bin/sh\n").unwrap();
    writer.start_file("a/ü.txt", options.large_file(true)).unwrap();
    writer.write_all("x".repeat(10_000).as_bytes()).unwrap();
    writer.add_symlink("a/link", "../run.sh", options).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    assert_eq!(Kind::of(&bytes), Some(Kind::Zip));
    let entries = listed(&open(Kind::Zip, &bytes).unwrap());
    assert_eq!(entries[0], "a/link -> ../run.sh");
    assert_eq!(entries[1], format!("a/ü.txt = {}", "x".repeat(10_000)));
    assert_eq!(entries[2..], ["empty/", "run.sh x = #!/bin/sh\n"]);
}

#[test]
fn one_folder_around_everything_is_taken_off() {
    let items = [folder("shop-1.0/"), file("shop-1.0/a", "1"), link("shop-1.0/b/c", "../a")];
    let entries = open(Kind::Tar, &tar_of(&items)).unwrap();
    assert_eq!(listed(&entries), ["a = 1", "b/c -> ../a"]);
    let two = [file("a/x", "1"), file("b/x", "2")];
    let entries = open(Kind::Tar, &tar_of(&two)).unwrap();
    assert_eq!(listed(&entries), ["a/x = 1", "b/x = 2"]);
    let mac = [Zipped::stored("shop/a", "1"), Zipped::stored("__MACOSX/shop/._a", "2")];
    assert_eq!(listed(&open(Kind::Zip, &zip_of(&mac)).unwrap()), ["a = 1"]);
    // What stays inside of the folder must stay inside without it.
    let climbing = [file("shop/a", "1"), link("shop/b", "../x")];
    assert!(matches!(refused_tar(&climbing), ArchiveError::Link { .. }));
}

#[test]
fn names_that_differ_in_case_are_different_files() {
    let entries = open(Kind::Tar, &tar_of(&[file("A", "1"), file("a", "2")])).unwrap();
    assert_eq!(listed(&entries), ["A = 1", "a = 2"]);
}

#[test]
fn long_names_and_extended_headers_are_read() {
    let long = "d/".repeat(60) + "name";
    let mut builder = tar::Builder::new(Vec::new());
    let mut plain = Header::new_gnu();
    plain.set_size(1);
    plain.set_mode(0o644);
    builder.append_data(&mut plain, &long, &b"1"[..]).unwrap();
    builder.append_pax_extensions([("path", "from/pax".as_bytes())]).unwrap();
    builder.append(&header(EntryType::Regular, b"short", b"", 1), &b"2"[..]).unwrap();
    let global = b"52 comment=0123456789012345678901234567890123456789\n";
    let global_header = header(EntryType::XGlobalHeader, b"g", b"", global.len() as u64);
    builder.append(&global_header, &global[..]).unwrap();
    let bytes = builder.into_inner().unwrap();
    let entries = open(Kind::Tar, &bytes).unwrap();
    assert_eq!(listed(&entries), [format!("{long} = 1"), "from/pax = 2".into()]);
}

#[test]
fn paths_that_leave_are_refused() {
    for name in ["../x", "a/../../x", "a/..", "/etc/passwd", "a//b", "a/./b", "..", "./../x"] {
        let error = refused_tar(&[file("ok", ""), file(name, "x")]);
        assert!(matches!(error, ArchiveError::Path { .. }), "{name}: {error}");
        assert_eq!(error.refusal(), Refusal::Unsafe);
        let error = refused_zip(&[Zipped::stored(name, "x")]);
        assert!(matches!(error, ArchiveError::Path { .. }), "{name}: {error}");
    }
}

#[test]
fn a_path_in_an_extended_header_is_checked_as_well() {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([("path", "../../etc/x".as_bytes())]).unwrap();
    builder.append(&header(EntryType::Regular, b"fine", b"", 0), &b""[..]).unwrap();
    let error = open(Kind::Tar, &builder.into_inner().unwrap()).unwrap_err();
    assert!(matches!(error, ArchiveError::Path { .. }));
}

#[test]
fn paths_of_other_systems_are_refused() {
    for name in ["..\\x", "a\\b"] {
        assert!(matches!(refused_tar(&[file(name, "")]), ArchiveError::Backslash { .. }));
        assert!(matches!(refused_zip(&[Zipped::stored(name, "")]), ArchiveError::Backslash { .. }));
    }
    for name in ["C:/x", "c:x"] {
        assert!(matches!(refused_tar(&[file(name, "")]), ArchiveError::Drive { .. }));
        assert!(matches!(refused_zip(&[Zipped::stored(name, "")]), ArchiveError::Drive { .. }));
    }
}

#[test]
fn names_that_cannot_be_shown_are_refused_and_not_shown() {
    let error = refused_tar(&[file("a\x1b[2Jb", "")]);
    assert!(!error.to_string().contains('\x1b'));
    let not_text = [Item(EntryType::Regular, b"\xff\xfe", b"", b"")];
    assert!(matches!(refused_tar(&not_text), ArchiveError::NotUtf8 { .. }));
}

#[test]
fn links_that_leave_are_refused() {
    for target in ["/etc/passwd", "..", "a/../../x", ""] {
        let error = refused_tar(&[file("a/x", ""), file("b", ""), link("l", target)]);
        assert!(matches!(error, ArchiveError::Link { .. }), "{target}: {error}");
        let link = Zipped { mode: 0o120_777, ..Zipped::stored("l", target) };
        let error = refused_zip(&[Zipped::stored("b", ""), link]);
        assert!(matches!(error, ArchiveError::Link { .. }), "{target}: {error}");
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let error = refused_tar(&[link("a", "b"), file("b/x", ""), file("a/evil", "")]);
    assert!(matches!(error, ArchiveError::BelowNoFolder { .. }));
    let error = refused_tar(&[file("a/evil", ""), link("a", "b")]);
    assert!(matches!(error, ArchiveError::Twice { .. }));
    let error = refused_tar(&[link("a", "b"), folder("a/")]);
    assert!(matches!(error, ArchiveError::Twice { .. }));
}

#[test]
fn hard_links_are_refused() {
    let hard = Item(EntryType::Link, b"l", b"/etc/shadow", b"");
    let error = refused_tar(&[file("a", ""), hard]);
    assert!(matches!(error, ArchiveError::HardLink { .. }));
}

#[test]
fn devices_and_the_like_are_refused() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
        let error = refused_tar(&[Item(kind, b"d", b"", b"")]);
        assert!(matches!(error, ArchiveError::Special { .. }), "{kind:?}");
    }
    assert!(matches!(
        refused_tar(&[Item(EntryType::new(b'M'), b"d", b"", b"")]),
        ArchiveError::Special { .. }
    ));
    for mode in [0o020_644, 0o060_644, 0o010_644, 0o140_644] {
        let error = refused_zip(&[Zipped { mode, ..Zipped::stored("d", "") }]);
        assert!(matches!(error, ArchiveError::Special { .. }), "{mode:o}");
    }
}

#[test]
fn a_path_given_twice_is_refused() {
    let error = refused_tar(&[file("a", "1"), file("./a", "2")]);
    assert!(matches!(error, ArchiveError::Twice { .. }));
    let error = refused_zip(&[Zipped::stored("a", "1"), Zipped::stored("a", "2")]);
    assert!(matches!(error, ArchiveError::Twice { .. }));
    let error = refused_tar(&[file("a", "1"), file("a/b", "2")]);
    assert!(matches!(error, ArchiveError::BelowNoFolder { .. }));
}

fn small() -> Limits {
    Limits {
        total: Bytes::kib(64),
        file: Bytes::kib(32),
        files: 10,
        ratio: 200,
        ratio_from: Bytes::kib(8),
    }
}

#[test]
fn a_bomb_is_stopped_by_its_ratio() {
    let zeros = "\0".repeat(30 * 1024);
    let error = open_with(Kind::TarGz, &gz(&tar_of(&[file("a", &zeros)])), &small()).unwrap_err();
    assert!(matches!(error, ArchiveError::Bomb { .. }), "{error}");
    assert_eq!(error.refusal(), Refusal::TooLarge);
    let zip = zip_of(&[Zipped::deflated("a", zeros.as_bytes())]);
    let error = open_with(Kind::Zip, &zip, &small()).unwrap_err();
    assert!(matches!(error, ArchiveError::Bomb { .. }), "{error}");
}

#[test]
fn a_bomb_after_the_end_is_stopped_too() {
    let mut bytes = tar_of(&[file("a", "1")]);
    bytes.extend(vec![0; 4 << 20]);
    let error = open_with(Kind::TarGz, &gz(&bytes), &small()).unwrap_err();
    assert_eq!(error.refusal(), Refusal::TooLarge, "{error}");
}

#[test]
fn a_bomb_in_an_extended_header_is_stopped() {
    let name = "n".repeat(10 << 20);
    let mut builder = tar::Builder::new(Vec::new());
    let long = header(EntryType::GNULongName, b"././@LongLink", b"", name.len() as u64);
    builder.append(&long, name.as_bytes()).unwrap();
    builder.append(&header(EntryType::Regular, b"a", b"", 0), &b""[..]).unwrap();
    let error = open(Kind::Tar, &builder.into_inner().unwrap()).unwrap_err();
    assert!(matches!(error, ArchiveError::Broken { .. }), "{error}");
}

#[test]
fn what_is_too_large_is_refused_before_it_is_unpacked() {
    let large = "x".repeat(33 * 1024);
    let bytes = tar_of(&[file("a", &large)]);
    let mut taken = 0;
    let mut count = |_: FileHead<'_>, _: &mut dyn Read| {
        taken += 1;
        Ok(())
    };
    let error = read(Kind::Tar, Cursor::new(&bytes), &small(), &mut count).unwrap_err();
    assert!(matches!(error, ArchiveError::FileTooLarge { .. }));
    let zip = zip_of(&[Zipped::stored("a", &large)]);
    let error = read(Kind::Zip, Cursor::new(&zip), &small(), &mut count).unwrap_err();
    assert!(matches!(error, ArchiveError::FileTooLarge { .. }));
    assert_eq!(taken, 0);
    let part = "x".repeat(30 * 1024);
    let three = [file("a", &part), file("b", &part), file("c", &part)];
    let error = open_with(Kind::Tar, &tar_of(&three), &small()).unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge { .. }));
}

#[test]
fn a_size_that_no_disk_has_is_refused() {
    let mut huge = header(EntryType::Regular, b"a", b"", 0);
    huge.set_size(u64::MAX / 2);
    huge.set_cksum();
    let mut bytes = huge.as_bytes().to_vec();
    bytes.extend([0; 1024]);
    let error = open(Kind::Tar, &bytes).unwrap_err();
    assert!(matches!(error, ArchiveError::FileTooLarge { .. }), "{error}");
}

#[test]
fn too_many_entries_are_refused() {
    let names: Vec<String> = (0..11).map(|n| n.to_string()).collect();
    let items: Vec<Item<'_>> = names.iter().map(|name| file(name, "")).collect();
    let error = open_with(Kind::Tar, &tar_of(&items), &small()).unwrap_err();
    assert!(matches!(error, ArchiveError::TooMany { .. }));
    let items: Vec<Zipped> = (0..31).map(|n| Zipped::stored(&n.to_string(), "")).collect();
    let error = open_with(Kind::Zip, &zip_of(&items), &small()).unwrap_err();
    assert!(matches!(error, ArchiveError::TooMany { .. }));
    let same = [folder("a/"); 31];
    let error = open_with(Kind::Tar, &tar_of(&same), &small()).unwrap_err();
    assert!(matches!(error, ArchiveError::TooMany { .. }));
    let deep = "d/".repeat(49) + "x";
    let error = open(Kind::Tar, &tar_of(&[file(&deep, "")])).map(|entries| entries.len());
    assert_eq!(error.unwrap(), 1);
    let deeper = Zipped::stored(&("d/".repeat(80) + "x"), "");
    assert!(matches!(refused_zip(&[deeper]), ArchiveError::Path { .. }));
}

#[test]
fn an_archive_that_was_cut_off_is_refused_wherever_it_was() {
    let bytes = tar_of(&[file("a", &"x".repeat(700)), file("b", "1")]);
    let compressed = gz(&bytes);
    // The end of a tar is two blocks of zeros, of which one is enough.
    for cut in (0..bytes.len() - 1024).step_by(64) {
        let error = open(Kind::Tar, &bytes[..cut]).unwrap_err();
        assert_eq!(error.refusal(), Refusal::Invalid, "{cut}: {error}");
    }
    for cut in 0..compressed.len() {
        let error = open(Kind::TarGz, &compressed[..cut]).unwrap_err();
        assert_eq!(error.refusal(), Refusal::Invalid, "{cut}: {error}");
    }
    let zip = zip_of(&[Zipped::stored("a", "hello"), Zipped::deflated("b", b"hello hello")]);
    for cut in 0..zip.len() {
        let error = open(Kind::Zip, &zip[..cut]).unwrap_err();
        assert_eq!(error.refusal(), Refusal::Invalid, "{cut}: {error}");
    }
}

#[test]
fn bytes_that_were_changed_never_panic() {
    let zip = zip_of(&[Zipped::stored("a", "hello"), Zipped::deflated("b/c", b"hello hello")]);
    let tar = tar_of(&[file("a", "hello"), folder("b/"), link("b/l", "../a")]);
    for (kind, bytes) in [(Kind::Zip, &zip), (Kind::Tar, &tar), (Kind::TarGz, &gz(&tar))] {
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = open(kind, &changed);
            }
        }
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    assert_eq!(Kind::of(b"hello"), None);
    assert_eq!(Kind::of(b""), None);
    for kind in [Kind::Zip, Kind::Tar, Kind::TarGz] {
        let error = open(kind, &vec![b'x'; 2000]).unwrap_err();
        assert_eq!(error.refusal(), Refusal::Invalid, "{kind:?}: {error}");
        let error = open(kind, b"").unwrap_err();
        assert_eq!(error.refusal(), Refusal::Invalid, "{kind:?}: {error}");
    }
    assert!(matches!(open(Kind::Tar, &[0; 1024]), Err(ArchiveError::Empty)));
    assert!(matches!(open(Kind::Zip, &zip_of(&[])), Err(ArchiveError::Empty)));
}

#[test]
fn an_encrypted_zip_is_refused() {
    let locked = Zipped { flags: 1, ..Zipped::stored("a", "hello") };
    assert!(matches!(refused_zip(&[locked]), ArchiveError::Encrypted { .. }));
}

#[test]
fn other_compressions_are_refused() {
    let other = Zipped { method: 14, ..Zipped::stored("a", "hello") };
    assert!(matches!(refused_zip(&[other]), ArchiveError::Method { method: 14, .. }));
}

#[test]
fn a_zip_whose_entries_overlap_is_refused() {
    // One body under two names: the bomb that no ratio of one entry shows.
    let twin = |n: &str| Zipped { local_name: b"a".to_vec(), ..Zipped::stored(n, "hello") };
    let bytes = zip_at(&[twin("a"), twin("a")], |_, _| 0);
    let error = open(Kind::Zip, &bytes).unwrap_err();
    assert!(matches!(error, ArchiveError::Overlap { .. }), "{error}");
}

#[test]
fn a_zip_with_two_names_for_one_entry_is_refused() {
    let two = Zipped { local_name: b"b".to_vec(), ..Zipped::stored("a", "x") };
    assert!(matches!(refused_zip(&[two]), ArchiveError::Broken { .. }));
}

#[test]
fn a_zip_that_lies_about_sizes_is_refused() {
    let body = b"hello hello hello hello";
    let honest = Zipped::deflated("a", body);
    let short = Zipped { size: 5, ..honest.clone() };
    assert!(matches!(refused_zip(&[short]), ArchiveError::Size { .. }));
    let long = Zipped { size: 5_000, ..honest.clone() };
    assert!(matches!(refused_zip(&[long]), ArchiveError::Size { .. }));
    let stored = Zipped { size: 3, ..Zipped::stored("a", "hello") };
    assert!(matches!(refused_zip(&[stored]), ArchiveError::Size { .. }));
    let checksum = Zipped { crc: honest.crc ^ 1, ..honest };
    assert!(matches!(refused_zip(&[checksum]), ArchiveError::Checksum { .. }));
}

#[test]
fn what_a_sink_leaves_is_read_and_its_error_is_told() {
    let bytes = gz(&tar_of(&[file("a", &"x".repeat(5_000)), file("b", "y")]));
    let mut lazy = |_: FileHead<'_>, _: &mut dyn Read| Ok(());
    let limits = Limits::default();
    assert_eq!(read(Kind::TarGz, Cursor::new(&bytes), &limits, &mut lazy).unwrap().len(), 2);
    let mut full = |_: FileHead<'_>, _: &mut dyn Read| -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    };
    let error = read(Kind::TarGz, Cursor::new(&bytes), &limits, &mut full).unwrap_err();
    assert!(matches!(&error, ArchiveError::Keep { path, .. } if path == "a"), "{error}");
    assert_eq!(error.refusal(), Refusal::Ours);
}
