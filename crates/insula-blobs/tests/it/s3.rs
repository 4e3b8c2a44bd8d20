//! The S3 store, against a server that speaks the protocol.

use insula_blobs::{BlobConfig, BlobError, Blobs, S3Config, SecretKey};

use crate::directory::files_below;
use crate::server::{ACCESS_KEY, SECRET_KEY, Server};
use crate::shared::{
    ROOMY, a_batch_is_stored_in_order, a_blob_lives_and_dies, bytes, pieces, shelf,
    what_is_refused_leaves_nothing,
};

fn open(config: S3Config) -> Blobs {
    Blobs::open(BlobConfig::S3(config)).unwrap()
}

#[tokio::test]
async fn a_blob_lives_and_dies_in_s3() {
    let server = Server::start().await;
    let blobs = open(server.config());
    blobs.probe().await.unwrap();
    // 20 MiB go in parts; a thousand bytes do not.
    a_blob_lives_and_dies(&blobs).await;
    assert!(files_below(&server.spool()).is_empty());
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_in_s3() {
    let server = Server::start().await;
    what_is_refused_leaves_nothing(&open(server.config())).await;
    assert!(files_below(&server.bucket()).is_empty());
    assert!(files_below(&server.spool()).is_empty());
}

#[tokio::test]
async fn a_batch_is_stored_in_order_in_s3() {
    let server = Server::start().await;
    a_batch_is_stored_in_order(&open(server.config()), 100).await;
}

#[tokio::test]
async fn damage_in_s3_is_noticed_on_reading() {
    let server = Server::start().await;
    let blobs = open(server.config());
    let stored = blobs.put_bytes(shelf(1), bytes(1, 60_000)).await.unwrap();
    let object = files_below(&server.bucket())
        .into_iter()
        .find(|path| path.ends_with(stored.digest.hex()))
        .unwrap();
    std::fs::write(object, bytes(2, 60_000)).unwrap();
    let damaged = blobs.get_bytes(shelf(1), stored.digest, ROOMY).await;
    assert!(matches!(damaged, Err(BlobError::Damaged { .. })), "{damaged:?}");
}

#[tokio::test]
async fn wrong_credentials_are_told_without_telling_them() {
    let server = Server::start().await;
    let wrong_secret =
        S3Config { secret_key: SecretKey::new("not-the-secret".into()), ..server.config() };
    let wrong_key = S3Config { access_key: "AKIANOBODY".into(), ..server.config() };
    for config in [wrong_secret, wrong_key] {
        let blobs = open(config);
        let errors = [
            blobs.probe().await.unwrap_err(),
            blobs.put_bytes(shelf(1), bytes(1, 10)).await.unwrap_err(),
            blobs.put_stream(shelf(1), pieces(&bytes(1, 10), 5), None, ROOMY).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, BlobError::Refused { .. }), "{error:?}");
            assert!(error.to_string().contains("refused our credentials"), "{error}");
            let told = format!("{error:?} {error} {blobs:?}");
            for secret in [SECRET_KEY, "not-the-secret"] {
                assert!(!told.contains(secret), "{told}");
            }
            let told = format!("{error:?} {error}");
            assert!(!told.contains("AKIA"), "{told}");
        }
    }
    assert!(files_below(&server.bucket()).is_empty());
    assert!(ACCESS_KEY.starts_with("AKIA"), "or the check above checks nothing");
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_told_at_the_start() {
    let server = Server::start().await;
    let blobs = open(S3Config { bucket: "elsewhere".into(), ..server.config() });
    let error = blobs.probe().await.unwrap_err();
    let BlobError::Remote { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("NoSuchBucket"), "{source}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_after_some_tries() {
    let server = Server::start().await;
    let config = server.config();
    server.stop().await;
    let error = open(config).put_bytes(shelf(1), bytes(1, 10)).await.unwrap_err();
    let BlobError::Remote { source, .. } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("Connection refused"), "{source}");
}

#[tokio::test]
async fn plain_http_is_refused_unless_it_was_allowed() {
    let server = Server::start().await;
    for endpoint in ["http://s3.example.com", "s3.example.com", "ftp://s3.example.com"] {
        let config = S3Config { endpoint: endpoint.into(), allow_http: false, ..server.config() };
        let refused = Blobs::open(BlobConfig::S3(config));
        assert!(matches!(refused, Err(BlobError::Config { .. })), "{endpoint}");
    }
}
