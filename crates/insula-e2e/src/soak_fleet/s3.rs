//! An S3 server in this process: `s3s`, which speaks the protocol and checks signatures, over a
//! folder. It counts who asks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub const BUCKET: &str = "bucket";
pub const ACCESS_KEY: &str = "AKIAINSULASOAK";
pub const SECRET_KEY: &str = "a-secret-key-of-the-soak";

#[derive(Debug)]
pub struct S3 {
    pub endpoint: String,
    asked: Arc<AtomicU64>,
    serving: Runtime,
}

impl S3 {
    pub fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder.join(BUCKET))?;
        let files = s3s_fs::FileSystem::new(folder).map_err(|error| anyhow!("{error:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let serving = Runtime::new().context("start a runtime")?;
        let listener = serving.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let asked = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&asked);
        serving.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, counted) = (service.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let counting = service_fn(move |request| {
                        counted.fetch_add(1, Ordering::Relaxed);
                        hyper::service::Service::call(&service, request)
                    });
                    // A client that breaks off has its own reasons.
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), counting)
                        .await;
                });
            }
        });
        Ok(Self { endpoint, asked, serving })
    }

    /// How many requests came so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Nobody listens any more.
    pub fn stop(self) {
        self.serving.shutdown_background();
    }
}
