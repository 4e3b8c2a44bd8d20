//! An S3 server in this process: `s3s`, which speaks the protocol and checks signatures, over a
//! folder.

use std::path::PathBuf;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use insula_blobs::{S3Config, SecretKey};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

pub const ACCESS_KEY: &str = "AKIAINSULATEST";
pub const SECRET_KEY: &str = "a-secret-key-of-the-test";

pub struct Server {
    folder: TempDir,
    endpoint: String,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    pub async fn start_with(tls: TlsAcceptor) -> Self {
        Self::listen(Some(tls)).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("server");
        std::fs::create_dir_all(root.join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&root).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, tls) = (service.clone(), tls.clone());
                tokio::spawn(async move {
                    let http = http1::Builder::new();
                    // A client that breaks off is part of the stories.
                    let _ = match tls {
                        None => http.serve_connection(TokioIo::new(socket), service).await,
                        Some(tls) => {
                            let Ok(socket) = tls.accept(socket).await else { return };
                            http.serve_connection(TokioIo::new(socket), service).await
                        }
                    };
                });
            }
        });
        Self { folder, endpoint, serving }
    }

    pub fn config(&self) -> S3Config {
        S3Config {
            endpoint: self.endpoint.clone(),
            bucket: "bucket".into(),
            region: "eu-test-1".into(),
            access_key: ACCESS_KEY.into(),
            secret_key: SecretKey::new(SECRET_KEY.into()),
            allow_http: true,
            path_style: true,
            spool: self.spool(),
        }
    }

    pub fn spool(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("server/bucket")
    }

    /// Returns when nobody listens any more.
    pub async fn stop(mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
