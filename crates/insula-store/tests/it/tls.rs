//! What travels to PostgreSQL is encrypted, to whom the URL trusts and to nobody else.

use std::error::Error;
use std::path::Path;

use base64::Engine as _;
use insula_store::{OpenError, Store, StoreConfig, orgs};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::model::org;
use crate::postgres::Server;

/// An authority of the test's own.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}

fn open(url: &str) -> Result<Store, OpenError> {
    Store::open(StoreConfig::postgres(url.parse().unwrap()))
}

fn causes(error: &OpenError) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said.push_str(&format!(": {error}"));
        cause = error.source();
    }
    said
}

fn roots(file: &Path) -> String {
    format!("sslrootcert={}", file.display())
}

#[test]
fn a_connection_is_encrypted_to_a_server_that_proves_its_name() {
    let Some(mut server) = Server::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (authority(), authority());
    let (root, other_root) = (folder.path().join("ca.pem"), folder.path().join("other.pem"));
    std::fs::write(&root, pem("CERTIFICATE", ours.der())).unwrap();
    std::fs::write(&other_root, pem("CERTIFICATE", theirs.der())).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ours).unwrap();
    let port = server.run_with_tls(
        &pem("CERTIFICATE", certificate.der()),
        &pem("PRIVATE KEY", &key.serialize_der()),
    );
    let at = |host: &str, query: &str| {
        format!("postgres://insula@{host}:{port}/postgres?hostaddr=127.0.0.1&{query}")
    };
    let encrypted = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE application_name = 'insula'";

    let store = open(&at("localhost", &format!("sslmode=verify-full&{}", roots(&root)))).unwrap();
    store.write_blocking(|tx| orgs::create(tx, &org(1))).unwrap();
    assert_eq!(store.read_blocking(orgs::count).unwrap(), 1);
    assert_eq!(server.sql(encrypted), ["t"]);
    drop(store);
    drop(open(&at("localhost", "sslmode=require")).unwrap());

    let refused = |host: &str, query: &str| {
        let error = open(&at(host, query)).unwrap_err();
        assert!(matches!(error, OpenError::Connect { .. }), "{error:?}");
        causes(&error)
    };
    // Another authority's word; this system's roots, which do not know ours; another name.
    let said = refused("localhost", &roots(&other_root));
    assert!(said.contains("certificate"), "{said}");
    let said = refused("localhost", "sslmode=verify-full");
    assert!(said.contains("certificate"), "{said}");
    let said = refused("db.example.org", &roots(&root));
    assert!(said.contains("not valid for name"), "{said}");
    let said = refused("localhost", &roots(&folder.path().join("nowhere.pem")));
    assert!(said.contains("nowhere") || said.contains("No such file"), "{said}");

    // A server that speaks no TLS, or somebody in between who says so: not in the clear instead.
    server.without_tls();
    for query in ["sslmode=require", &roots(&root)] {
        let said = refused("localhost", query);
        assert!(said.contains("TLS"), "{said}");
    }
    drop(open(&at("localhost", "sslmode=disable")).unwrap());
}
