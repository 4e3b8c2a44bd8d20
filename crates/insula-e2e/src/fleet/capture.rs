//! Everything that crosses the ground, as somebody with a tap on the bridge would read it.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use super::flows::Said;
use super::ground::Place;

/// Of every protocol.
const ETH_P_ALL: u16 = 0x0003;
/// So that nothing is lost while this machine is busy.
const BUFFER_LEN: usize = 64 << 20;
const FRAME_LEN_MAX: usize = 128 << 10;
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    reader: Option<JoinHandle<Result<()>>>,
}

impl Capture {
    /// Begins to listen to every device in that namespace.
    pub(super) fn begin(hub: &Place) -> Result<Self> {
        let socket = hub.inside(|| {
            let number = NonZeroU32::new(u32::from(ETH_P_ALL.to_be())).context("a protocol")?;
            let (family, kind) = (AddressFamily::PACKET, SocketType::RAW);
            let protocol = Some(Protocol::from_raw(number));
            let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
            set_socket_recv_buffer_size_force(&socket, BUFFER_LEN)?;
            set_socket_timeout(&socket, Timeout::Recv, Some(LOOK))?;
            Ok(socket)
        })?;
        let (stop, frames) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<_>>>::default());
        let (ends, kept) = (Arc::clone(&stop), Arc::clone(&frames));
        let reader = std::thread::spawn(move || {
            let mut frame = vec![0; FRAME_LEN_MAX];
            while !ends.load(Ordering::Relaxed) {
                match recv(&socket, &mut frame[..], RecvFlags::empty()) {
                    Ok((read, _)) => {
                        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                        kept.push(frame[..read].to_vec());
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => bail!("read frames: {error}"),
                }
            }
            Ok(())
        });
        Ok(Self { stop, frames, reader: Some(reader) })
    }

    /// What was said so far, put together.
    pub fn said(&self) -> Said {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = Said::default();
        frames.iter().for_each(|frame| said.hear(frame));
        said
    }

    /// How many frames there were.
    pub fn len(&self) -> usize {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses if the tap broke.
    pub fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let reader = self.reader.take().context("a reader")?;
        reader.join().map_err(|_| anyhow!("the tap panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
