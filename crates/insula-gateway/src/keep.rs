//! The gateway's own folder: who it is, and the last table it was given.

use std::io;
use std::path::{Path, PathBuf};

use insula_kit::clock::Clock;
use insula_kit::files::{self, Access, FileError};
use insula_kit::random::Random;
use insula_model::routes::RouteTable;
use insula_model::schema::{self, DocumentError};
use insula_model::{GatewayId, ID_RANDOM_BYTES, Timestamp};
use serde::{Deserialize, Serialize};

const IDENTITY: &str = "gateway.json";
const ROUTES: &str = "routes.json";

#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("keep the gateway's own files")]
    File(#[from] FileError),
    #[error("read the kept routes in {}", path.display())]
    Document {
        path: PathBuf,
        #[source]
        source: DocumentError,
    },
    #[error("read the kept routes in {}", path.display())]
    Text {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    gateway: GatewayId,
}

#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self, KeepError> {
        files::create_private_folder(path)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Made once, and the same ever after.
    pub(crate) fn identity(
        &self,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<GatewayId, KeepError> {
        let path = self.path.join(IDENTITY);
        match files::read_json::<Identity>(&path) {
            Ok(identity) => Ok(identity.gateway),
            Err(error) if error.is_missing() => self.new_identity(clock, random),
            Err(error) => Err(error.into()),
        }
    }

    /// Another than before, for one that was removed.
    pub(crate) fn new_identity(
        &self,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<GatewayId, KeepError> {
        let mut bytes = [0; ID_RANDOM_BYTES];
        random.fill(&mut bytes);
        let now = Timestamp::from_millis(clock.now_ms());
        let gateway = GatewayId::from_parts(now, bytes);
        files::write_json(&self.path.join(IDENTITY), &Identity { gateway }, Access::Private)?;
        Ok(gateway)
    }

    pub(crate) fn routes(&self) -> Result<Option<RouteTable>, KeepError> {
        let path = self.path.join(ROUTES);
        let bytes = match files::read(&path, files::DOCUMENT_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let text = String::from_utf8(bytes).map_err(|error| KeepError::Text {
            path: path.clone(),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })?;
        schema::decode(&text).map(Some).map_err(|source| KeepError::Document { path, source })
    }

    /// On disk when this returns. If it cannot be, what was kept before is removed: after a
    /// restart, no routes are better than those to addresses that others may have by then.
    pub(crate) fn keep_routes(&self, document: &str) -> Result<(), KeepError> {
        let path = self.path.join(ROUTES);
        files::write_durably(&path, document.as_bytes(), Access::Private).or_else(|error| {
            files::remove_durably(&path)?;
            Err(error)
        })?;
        Ok(())
    }
}
