//! An S3 server in a place of its own: `s3s`, which speaks the protocol and checks signatures, over
//! a folder. It goes away and comes back.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::ground::Place;

const PORT: u16 = 9000;
pub const BUCKET: &str = "bucket";
const ACCESS_KEY: &str = "AKIAINSULASTORY";
const SECRET_KEY: &str = "a-secret-key-of-the-story";

#[derive(Debug)]
pub struct S3 {
    place: Place,
    folder: PathBuf,
    /// Nothing while it is away.
    serving: Option<Runtime>,
}

impl S3 {
    pub fn start(place: Place, under: &Path) -> Result<Self> {
        let folder = under.join("s3");
        std::fs::create_dir_all(folder.join(BUCKET))?;
        let mut s3 = Self { place, folder, serving: None };
        s3.resume()?;
        Ok(s3)
    }

    fn address(&self) -> SocketAddr {
        self.place.at(PORT)
    }

    /// What a server is started with to keep its blobs here, and who it is here.
    pub fn flags(&self) -> Vec<String> {
        let endpoint = format!("http://{}", self.address());
        ["--s3-bucket", BUCKET, "--s3-endpoint", &endpoint].map(str::to_owned).to_vec()
    }

    pub fn keys() -> [(String, String); 2] {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        [pair("INSULA_S3_ACCESS_KEY", ACCESS_KEY), pair("INSULA_S3_SECRET_KEY", SECRET_KEY)]
    }

    /// Nobody listens any more, and connections break.
    pub fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.shutdown_background();
        }
    }

    /// Serves (again) what is in its folder.
    pub fn resume(&mut self) -> Result<()> {
        let files = s3s_fs::FileSystem::new(&self.folder).map_err(|error| anyhow!("{error:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let serving = Runtime::new().context("start a runtime")?;
        let address = self.address();
        // A socket stays in the network in which it was made.
        let listener = self.place.inside(|| Ok(serving.block_on(TcpListener::bind(address))?))?;
        serving.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    // A client that breaks off has its own reasons.
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        self.serving = Some(serving);
        Ok(())
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop();
    }
}
