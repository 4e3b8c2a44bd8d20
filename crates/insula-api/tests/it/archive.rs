//! Archives that programs post: honest ones are deployed, attacks are refused by name.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tar::{Builder, EntryType, Header};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::stage::{Answer, Stage, With};

const GZIP: &str = "application/gzip";
const ZIP: &str = "application/zip";

pub fn tar_gz(files: &[(&str, &str)]) -> Vec<u8> {
    packed(|tar| {
        for (path, text) in files {
            let mut header = Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
    })
}

fn packed(fill: impl FnOnce(&mut Builder<GzEncoder<Vec<u8>>>)) -> Vec<u8> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    fill(&mut tar);
    tar.into_inner().unwrap().finish().unwrap()
}

/// One entry whose name and kind no honest program writes.
fn one(name: &str, kind: EntryType, link: Option<&str>) -> Vec<u8> {
    packed(|tar| {
        let mut header = Header::new_gnu();
        // Written by hand, because the library refuses such names itself.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        tar.append(&header, &[][..]).unwrap();
        let mut honest = Header::new_gnu();
        honest.set_size(2);
        tar.append_data(&mut honest, "index.html", &b"hi"[..]).unwrap();
    })
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, bytes) in files {
        zip.start_file(*path, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

async fn post(stage: &Stage, app: &str, media_type: &'static str, archive: Vec<u8>) -> Answer {
    let path = format!("/v1/orgs/default/apps/{app}/deployments/archive");
    stage.send("POST", &path, With::token(&stage.operator).body(media_type, archive)).await
}

#[tokio::test]
async fn a_tarball_and_a_zip_of_one_folder_are_the_same_source() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    let tar = tar_gz(&[("shop-main/index.html", "hello"), ("shop-main/a/b.css", "x")]);
    let tarred = post(&stage, &app, GZIP, tar).await;
    assert_eq!(tarred.status, 201, "{}", tarred.text);
    let zip = zipped(&[("a/b.css", b"x"), ("index.html", b"hello")]);
    let zipped = post(&stage, &app, ZIP, zip).await;
    assert_eq!(zipped.status, 201, "{}", zipped.text);
    assert_eq!(tarred.json()["source"], zipped.json()["source"]);
    let (manifest, _) = crate::deploy::folder(&[("index.html", "hello"), ("a/b.css", "x")]);
    let path = format!("/v1/orgs/default/apps/{app}/deployments");
    let uploaded = stage.post(&stage.operator, &path, &json!({ "manifest": manifest })).await.ok();
    assert_eq!(uploaded["source"], tarred.json()["source"], "and its chunks are there already");
}

#[tokio::test]
async fn a_large_file_in_an_archive_streams_to_disk() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    // Not compressible, so that it is no bomb.
    let mut large = vec![0; 12 << 20];
    insula_kit::random::Random::fill(&insula_kit::random::SeededRandom::new(1), &mut large);
    let zip = zipped(&[("index.html", b"hi"), ("film.bin", &large)]);
    let made = post(&stage, &app, ZIP, zip).await.ok();
    assert_eq!(made["source"]["size_bytes"], (12 << 20) + 2);
    let asked = json!({ "chunks": [crate::deploy::digest(&large)] });
    let missing = stage.post(&stage.operator, "/v1/orgs/default/sources/missing", &asked).await;
    assert_eq!(missing.ok()["missing"], json!([]));
}

#[tokio::test]
async fn attacks_are_refused_and_nothing_is_deployed() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    let regular = EntryType::Regular;
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("a path out of the folder", one("../escape", regular, None)),
        ("out of it further down", one("a/../../escape", regular, None)),
        ("an absolute path", one("/etc/cron.d/x", regular, None)),
        ("a link out", one("l", EntryType::Symlink, Some("../../etc/passwd"))),
        ("an absolute link", one("l", EntryType::Symlink, Some("/etc/passwd"))),
        ("a hard link", one("l", EntryType::Link, Some("/etc/passwd"))),
        ("a character device", one("null", EntryType::Char, None)),
        ("a block device", one("disk", EntryType::Block, None)),
        ("a pipe", one("pipe", EntryType::Fifo, None)),
        (
            "a file through a link",
            packed(|tar| {
                let mut link = Header::new_gnu();
                link.set_entry_type(EntryType::Symlink);
                link.set_size(0);
                tar.append_link(&mut link, "here", "there").unwrap();
                let mut file = Header::new_gnu();
                file.set_size(1);
                tar.append_data(&mut file, "here/x", &b"x"[..]).unwrap();
            }),
        ),
        ("a file twice", tar_gz(&[("index.html", "a"), ("index.html", "b")])),
    ];
    for (what, archive) in attacks {
        let answer = post(&stage, &app, GZIP, archive).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (422, "archive_unsafe"),
            "{what}: {}",
            answer.text
        );
        assert!(answer.json()["errors"][0]["message"].is_string(), "{what}");
    }
    let listed =
        stage.get(&stage.operator, &format!("/v1/orgs/default/apps/{app}/deployments")).await;
    assert_eq!(listed.ok()["items"], json!([]));
}

#[tokio::test]
async fn bombs_and_broken_archives_are_refused() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    let zeros = vec![0; 64 << 20];
    let bomb = packed(|tar| {
        let mut header = Header::new_gnu();
        header.set_size(zeros.len() as u64);
        tar.append_data(&mut header, "zeros", &zeros[..]).unwrap();
    });
    assert!(bomb.len() < 1 << 20);
    post(&stage, &app, GZIP, bomb).await.refused(413, "source_too_large");
    post(&stage, &app, ZIP, zipped(&[("zeros", &zeros)])).await.refused(413, "source_too_large");

    let honest = tar_gz(&[("index.html", "hello")]);
    let cut = honest[..honest.len() / 2].to_vec();
    for broken in [Vec::new(), b"not an archive".to_vec(), cut] {
        post(&stage, &app, GZIP, broken).await.refused(422, "archive_invalid");
    }
    post(&stage, &app, "text/plain", honest).await.refused(415, "unsupported_media_type");
}

#[tokio::test]
async fn an_archive_of_an_app_that_is_not_there_is_not_even_read() {
    let stage = Stage::open().await;
    let path = "/v1/orgs/default/apps/app_00000000000000000000000000/deployments/archive";
    let with = With::token(&stage.operator).body(GZIP, b"nonsense".to_vec());
    stage.send("POST", path, with).await.refused(404, "not_found");
}
