//! Unix sockets: how the roles on one machine talk.
//!
//! A socket appears under its name with its final mode and owner, or not at all: it is bound
//! beside, prepared, and renamed into place. A socket that somebody still answers on is never
//! taken away; one that nobody answers on is replaced.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// What fits in `sockaddr_un` before its closing NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Who may connect: writing to the socket file is connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// Such as `0o600` (its owner) or `0o660` (its group too).
    pub mode: u32,
    /// User and group ids, for the socket of a role that runs as somebody else.
    pub owner: Option<(u32, u32)>,
}

impl SocketAccess {
    pub const PRIVATE: Self = Self { mode: 0o600, owner: None };
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("listen on {}: another process answers there", path.display())]
    InUse { path: PathBuf },
    #[error("listen on {}: there is something that is not a socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("{doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    /// Nobody listens there (yet, or any more): what a caller waits out.
    pub fn is_absent(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), NotFound | ConnectionRefused))
    }

    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// Listens on `path`. Two processes that start at once are kept apart by the lock of the data
/// folder (see `lock`), not here. The file stays when the listener goes, since by then it may
/// already be a successor's.
pub async fn bind(path: &Path, access: SocketAccess) -> Result<UnixListener, SocketError> {
    refuse_what_must_stay(path).await?;
    let beside = beside(path)?;
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(SocketError::io("clear the way for", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let short = ShortPath::of(&beside)?;
    let listener = UnixListener::bind(&short.path).map_err(SocketError::io("listen on", path))?;
    prepare(&beside, path, access).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })?;
    Ok(listener)
}

pub async fn connect(path: &Path) -> Result<UnixStream, SocketError> {
    let short = ShortPath::of(path)?;
    UnixStream::connect(&short.path).await.map_err(SocketError::io("connect to", path))
}

async fn refuse_what_must_stay(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SocketError::io("examine", path)(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match connect(path).await {
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) if error.is_absent() => Ok(()),
        Err(error) => Err(error),
    }
}

fn prepare(beside: &Path, path: &Path, access: SocketAccess) -> Result<(), SocketError> {
    // Owner first: the mode must not for a moment let a wider group in than the one meant.
    if let Some((user, group)) = access.owner {
        std::os::unix::fs::lchown(beside, Some(user), Some(group))
            .map_err(SocketError::io("give away", path))?;
    }
    fs::set_permissions(beside, Permissions::from_mode(access.mode))
        .map_err(SocketError::io("set the mode of", path))?;
    fs::rename(beside, path).map_err(SocketError::io("put into place", path))
}

fn beside(path: &Path) -> Result<PathBuf, SocketError> {
    let mut name = path.file_name().map(ToOwned::to_owned).ok_or_else(|| {
        SocketError::io("listen on", path)(io::Error::from(io::ErrorKind::InvalidInput))
    })?;
    name.push(".new");
    Ok(path.with_file_name(name))
}

/// A path that fits in a socket address: itself, or through a descriptor of its folder.
struct ShortPath {
    path: PathBuf,
    _folder: Option<File>,
}

impl ShortPath {
    fn of(path: &Path) -> Result<Self, SocketError> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(SocketError::io("use as a socket", path)(
                io::ErrorKind::InvalidInput.into(),
            ));
        };
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(Self { path: path.to_owned(), _folder: None });
        }
        let open = File::open(folder).map_err(SocketError::io("open the folder of", path))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())).join(name);
        Ok(Self { path, _folder: Some(open) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn answers(listener: &UnixListener, path: &Path) -> bool {
        let (client, served) = tokio::join!(connect(path), listener.accept());
        let (mut client, (mut served, _)) = (client.unwrap(), served.unwrap());
        client.write_all(b"ave").await.unwrap();
        drop(client);
        let mut heard = Vec::new();
        served.read_to_end(&mut heard).await.unwrap();
        heard == b"ave"
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = bind(&path, SocketAccess { mode: 0o660, owner: None }).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(answers(&listener, &path).await);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        drop(bind(&path, SocketAccess::PRIVATE).await.unwrap());
        assert!(path.exists());
        assert!(connect(&path).await.unwrap_err().is_absent());
        let listener = bind(&path, SocketAccess::PRIVATE).await.unwrap();
        let second = bind(&path, SocketAccess::PRIVATE).await;
        assert!(matches!(second, Err(SocketError::InUse { .. })));
        // What was refused knocked, and that is the first connection in the queue.
        listener.accept().await.unwrap();
        assert!(answers(&listener, &path).await);
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        let refused = bind(&path, SocketAccess::PRIVATE).await;
        assert!(matches!(refused, Err(SocketError::NotASocket { .. })));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        let refused = bind(&path, SocketAccess::PRIVATE).await;
        assert!(matches!(refused, Err(SocketError::NotASocket { .. })));
    }

    #[tokio::test]
    async fn a_path_too_long_for_the_kernel_works_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(120));
        fs::create_dir(&deep).unwrap();
        let path = deep.join("api.sock");
        assert!(connect(&path).await.unwrap_err().is_absent());
        let listener = bind(&path, SocketAccess::PRIVATE).await.unwrap();
        assert!(answers(&listener, &path).await);
    }
}
