//! The S3 store over TLS: certificates of the system are trusted, and no others.
//!
//! The system's certificates are given to a child of ours by `SSL_CERT_FILE`, which is how an
//! operator adds a private authority too.

use std::io::BufReader;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use insula_blobs::{BlobConfig, BlobError, Blobs, S3Config};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use crate::server::Server;
use crate::shared::a_blob_lives_and_dies;

const FOLDER_VARIABLE: &str = "INSULA_BLOBS_TLS_FOLDER";
const TRUSTED_VARIABLE: &str = "INSULA_BLOBS_TLS_TRUSTED";
const TEST: &str = "tls::a_trusted_server_is_talked_to_and_another_is_not";

#[tokio::test]
async fn a_trusted_server_is_talked_to_and_another_is_not() {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        let trusted = std::env::var_os(TRUSTED_VARIABLE).is_some();
        return talk(Path::new(&folder), trusted).await;
    }
    let folder = tempfile::tempdir().unwrap();
    if !make_certificate(folder.path(), "own") || !make_certificate(folder.path(), "other") {
        eprintln!("SKIPPED: {TEST}: needs openssl (apt-get install openssl)");
        assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "INSULA_TEST_ALL is set");
        return;
    }
    for trusted in ["own", "other"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", TEST, "--nocapture"])
            .env(FOLDER_VARIABLE, folder.path())
            .env("SSL_CERT_FILE", folder.path().join(format!("{trusted}.crt")))
            .env_remove("SSL_CERT_DIR");
        if trusted == "own" {
            child.env(TRUSTED_VARIABLE, "1");
        }
        assert!(child.status().unwrap().success(), "trusting {trusted}");
    }
}

async fn talk(folder: &Path, trusted: bool) {
    let server = Server::start_with(acceptor(folder)).await;
    let config = S3Config { allow_http: false, ..server.config() };
    assert!(config.endpoint.starts_with("https://"));
    let blobs = Blobs::open(BlobConfig::S3(config)).unwrap();
    if trusted {
        return a_blob_lives_and_dies(&blobs).await;
    }
    let error = blobs.probe().await.unwrap_err();
    let BlobError::Remote { source, .. } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("invalid peer certificate"), "{source}");
}

fn acceptor(folder: &Path) -> TlsAcceptor {
    let pem = std::fs::File::open(folder.join("own.crt")).unwrap();
    let certificates: Result<Vec<CertificateDer<'_>>, _> =
        CertificateDer::pem_reader_iter(BufReader::new(pem)).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("own.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.unwrap(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Signed by itself, for 127.0.0.1.
fn make_certificate(folder: &Path, name: &str) -> bool {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=insula test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(folder.join(format!("{name}.key")))
        .arg("-out")
        .arg(folder.join(format!("{name}.crt")))
        .output();
    made.is_ok_and(|made| made.status.success())
}
