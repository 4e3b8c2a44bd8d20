//! A netlink socket: sends a batch of messages in one call and sorts out the answers.
//!
//! A socket stays in the network namespace in which it was opened, whatever its thread does later;
//! `attach` builds on that.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::error::NetError;
use super::wire::{self, Message, Received};

pub(super) const REQUEST: u16 = 0x01;
pub(super) const ACK: u16 = 0x04;
pub(super) const DUMP: u16 = 0x300;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

/// In an acknowledgement: the offending request is not repeated behind the error.
const CAPPED: u16 = 0x100;
/// In an acknowledgement: attributes follow that say what was wrong.
const ACK_ATTRIBUTES: u16 = 0x200;

const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;
const EXT_MESSAGE: u16 = 1;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM_NFTABLES: u16 = 10;

/// The kernel writes dump datagrams of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;
/// A dump that does not end is a kernel gone wrong: 65,536 elements come in some 200 datagrams.
const DUMP_DATAGRAMS_MAX: usize = 16_384;

#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What came back for one message of a batch.
#[derive(Debug, Default, Clone)]
struct Answer {
    seen: bool,
    error: i32,
    reason: Option<String>,
}

impl Socket {
    pub(super) fn route() -> Result<Self, NetError> {
        // Protocol 0 is rtnetlink.
        Self::open(None)
    }

    pub(super) fn netfilter() -> Result<Self, NetError> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, NetError> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(|errno| NetError::Open(errno.into()))?;
        // Both only make answers better; a kernel without them still works.
        switch_on(&fd, libc::NETLINK_EXT_ACK);
        switch_on(&fd, libc::NETLINK_CAP_ACK);
        Ok(Self { fd, sequence: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Sends all messages in one call; they are carried out in order, each for itself. The first refusal
    /// is returned. Answers that are not acknowledgements go to `visit`.
    pub(super) fn transact(
        &mut self,
        doing: &str,
        messages: Vec<Message>,
        visit: impl FnMut(Received<'_>),
    ) -> Result<(), NetError> {
        let answers = self.exchange(doing, messages, visit)?;
        settle(doing, &answers)
    }

    /// All or nothing: one nf_tables transaction.
    pub(super) fn commit(&mut self, doing: &str, changes: Vec<Message>) -> Result<(), NetError> {
        let mut messages = Vec::with_capacity(changes.len() + 2);
        messages.push(batch_edge(BATCH_BEGIN));
        messages.extend(changes);
        messages.push(batch_edge(BATCH_END));
        let mut answers = self.exchange(doing, messages, |_| {})?;
        // The edges are acknowledged only when the batch as a whole was refused.
        if let [first, .., last] = answers.as_mut_slice() {
            (first.seen, last.seen) = (true, true);
        }
        settle(doing, &answers)
    }

    /// One answer for each message, in their order.
    fn exchange(
        &mut self,
        doing: &str,
        messages: Vec<Message>,
        mut visit: impl FnMut(Received<'_>),
    ) -> Result<Vec<Answer>, NetError> {
        let first = self.sequence.wrapping_add(1);
        let mut answers = vec![Answer::default(); messages.len()];
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::len).sum());
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend_from_slice(&message.seal(self.sequence));
        }
        self.send(doing, &bytes)?;
        // The kernel carries out requests within `send`, so all answers are waiting already.
        while let Some(length) = self.receive(doing, RecvFlags::DONTWAIT)? {
            for received in wire::messages(&self.buffer[..length]) {
                let index = received.sequence.wrapping_sub(first) as usize;
                match (received.kind, answers.get_mut(index)) {
                    (KIND_ERROR, Some(answer)) => *answer = acknowledgement(received),
                    (_, Some(_)) => visit(received),
                    (_, None) => {} // Left over from an earlier call that failed half-way.
                }
            }
        }
        Ok(answers)
    }

    /// Asks for a list. Restarts are the caller's: a list that changed meanwhile may miss entries.
    pub(super) fn dump(
        &mut self,
        doing: &str,
        request: Message,
        mut visit: impl FnMut(Received<'_>),
    ) -> Result<(), NetError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send(doing, &request.seal(sequence))?;
        for _ in 0..DUMP_DATAGRAMS_MAX {
            let Some(length) = self.receive(doing, RecvFlags::empty())? else { break };
            for received in wire::messages(&self.buffer[..length]) {
                match received.kind {
                    _ if received.sequence != sequence => {}
                    KIND_DONE => return settle(doing, &[done(received)]),
                    KIND_ERROR => return settle(doing, &[acknowledgement(received)]),
                    _ => visit(received),
                }
            }
        }
        Err(NetError::Silent { doing: doing.to_owned() })
    }

    fn send(&self, doing: &str, bytes: &[u8]) -> Result<(), NetError> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(talk(doing, errno)),
            }
        }
    }

    /// `None`: nothing is waiting.
    fn receive(&mut self, doing: &str, flags: RecvFlags) -> Result<Option<usize>, NetError> {
        loop {
            match rustix::net::recv(&self.fd, &mut self.buffer[..], flags) {
                Ok((length, _)) => return Ok(Some(length)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(talk(doing, errno)),
            }
        }
    }
}

fn talk(doing: &str, errno: rustix::io::Errno) -> NetError {
    NetError::Talk { doing: doing.to_owned(), source: errno.into() }
}

fn switch_on(fd: &OwnedFd, option: i32) {
    let on: libc::c_int = 1;
    // SAFETY: `fd` is an open socket, and the kernel reads `size_of::<c_int>()` bytes of a live c_int.
    #[allow(unsafe_code)]
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

fn batch_edge(kind: u16) -> Message {
    let [high, low] = SUBSYSTEM_NFTABLES.to_be_bytes();
    Message::new(kind, REQUEST, &[0, 0, high, low])
}

fn acknowledgement(received: Received<'_>) -> Answer {
    let error = received.body.get(0..4).and_then(wire::host_u32).unwrap_or(0).cast_signed();
    let reason = (received.flags & ACK_ATTRIBUTES != 0).then(|| reason(received, error)).flatten();
    Answer { seen: true, error, reason }
}

/// The kernel's sentence stands behind the error number and the (possibly cut) request.
fn reason(received: Received<'_>, error: i32) -> Option<String> {
    let request = received.body.get(4..)?;
    let echoed = if received.flags & CAPPED != 0 || error == 0 {
        wire::HEADER_BYTES
    } else {
        wire::host_u32(request.get(0..4)?)? as usize
    };
    wire::attribute(request.get(echoed..)?, EXT_MESSAGE).map(wire::text)
}

fn done(received: Received<'_>) -> Answer {
    let error = received.body.get(0..4).and_then(wire::host_u32).unwrap_or(0).cast_signed();
    Answer { seen: true, error, reason: None }
}

fn settle(doing: &str, answers: &[Answer]) -> Result<(), NetError> {
    if let Some(answer) = answers.iter().find(|answer| answer.error != 0) {
        return Err(NetError::Refused {
            doing: doing.to_owned(),
            reason: answer.reason.clone(),
            source: io::Error::from_raw_os_error(-answer.error),
        });
    }
    if answers.iter().all(|answer| answer.seen) {
        Ok(())
    } else {
        Err(NetError::Silent { doing: doing.to_owned() })
    }
}
