//! What caller and answerer say to each other between streams. Pure.
//!
//! Every message has the same length, so there is nothing to negotiate and nothing to grow. A
//! stream's own bytes travel in frames, see `framed`.
//!
//! | caller | answerer |
//! |---|---|
//! | ping, with a number | pong, with the same number |
//! | open, with an instance's id | ok, gone, denied or refused, with the same id |

use insula_model::InstanceId;

/// A kind and sixteen bytes.
pub(crate) const MESSAGE_LEN: usize = 17;

const PING: u8 = 0x01;
const OPEN: u8 = 0x02;
const PONG: u8 = 0x81;
const OK: u8 = 0x82;
const GONE: u8 = 0x83;
const DENIED: u8 = 0x84;
/// From here to the next sixteen: refusals, by reason. One that we do not know is a refusal all the same.
const REFUSED: u8 = 0x90;
const REFUSED_LAST: u8 = 0x9f;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Ping(u64),
    Open(InstanceId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Pong(u64),
    Open(InstanceId, Verdict),
}

/// How an open ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    Gone,
    Denied,
    Refused(Refused),
}

/// Why an instance that is there, and may be reached, was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The far relay has as much under way as it takes.
    Busy,
    /// Nothing accepts connections at the instance, or it is not ready.
    NotListening,
    /// The instance did not accept in time.
    Silent,
    /// A reason that a newer version knows.
    Other,
}

impl Refused {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "the relay is busy",
            Self::NotListening => "nothing listens",
            Self::Silent => "the instance did not accept in time",
            Self::Other => "for a reason of its own",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message of the unknown kind {kind:#04x}")]
pub(crate) struct UnknownKind {
    kind: u8,
}

fn message(kind: u8, body: u128) -> [u8; MESSAGE_LEN] {
    let mut bytes = [0; MESSAGE_LEN];
    bytes[0] = kind;
    bytes[1..].copy_from_slice(&body.to_be_bytes());
    bytes
}

fn parts(bytes: &[u8; MESSAGE_LEN]) -> (u8, u128) {
    let [kind, body @ ..] = *bytes;
    (kind, u128::from_be_bytes(body))
}

/// A ping's number is in the low half; the rest is for later and not looked at.
fn number(body: u128) -> u64 {
    body as u64
}

impl Request {
    pub(crate) fn encode(self) -> [u8; MESSAGE_LEN] {
        match self {
            Self::Ping(number) => message(PING, number.into()),
            Self::Open(instance) => message(OPEN, instance.as_u128()),
        }
    }

    pub(crate) fn decode(bytes: &[u8; MESSAGE_LEN]) -> Result<Self, UnknownKind> {
        match parts(bytes) {
            (PING, body) => Ok(Self::Ping(number(body))),
            (OPEN, body) => Ok(Self::Open(InstanceId::from_u128(body))),
            (kind, _) => Err(UnknownKind { kind }),
        }
    }
}

impl Answer {
    pub(crate) fn encode(self) -> [u8; MESSAGE_LEN] {
        let (instance, verdict) = match self {
            Self::Pong(number) => return message(PONG, number.into()),
            Self::Open(instance, verdict) => (instance, verdict),
        };
        let kind = match verdict {
            Verdict::Ok => OK,
            Verdict::Gone => GONE,
            Verdict::Denied => DENIED,
            Verdict::Refused(Refused::Other) => REFUSED,
            Verdict::Refused(Refused::Busy) => REFUSED + 1,
            Verdict::Refused(Refused::NotListening) => REFUSED + 2,
            Verdict::Refused(Refused::Silent) => REFUSED + 3,
        };
        message(kind, instance.as_u128())
    }

    pub(crate) fn decode(bytes: &[u8; MESSAGE_LEN]) -> Result<Self, UnknownKind> {
        let (kind, body) = parts(bytes);
        let verdict = match kind {
            PONG => return Ok(Self::Pong(number(body))),
            OK => Verdict::Ok,
            GONE => Verdict::Gone,
            DENIED => Verdict::Denied,
            REFUSED..=REFUSED_LAST => Verdict::Refused(match kind - REFUSED {
                1 => Refused::Busy,
                2 => Refused::NotListening,
                3 => Refused::Silent,
                _ => Refused::Other,
            }),
            kind => return Err(UnknownKind { kind }),
        };
        Ok(Self::Open(InstanceId::from_u128(body), verdict))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let instance = InstanceId::from_u128(0x0123_4567_89ab_7def_8123_4567_89ab_cdef);
        for request in [Request::Ping(0), Request::Ping(u64::MAX), Request::Open(instance)] {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        let reasons = [Refused::Busy, Refused::NotListening, Refused::Silent, Refused::Other];
        let verdicts = [Verdict::Ok, Verdict::Gone, Verdict::Denied];
        for verdict in verdicts.into_iter().chain(reasons.map(Verdict::Refused)) {
            let answer = Answer::Open(instance, verdict);
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        assert_eq!(Answer::decode(&Answer::Pong(7).encode()), Ok(Answer::Pong(7)));
    }

    #[test]
    fn every_first_byte_is_a_message_or_refused() {
        let (mut requests, mut answers) = (0, 0);
        for kind in 0..=u8::MAX {
            let bytes = message(kind, 1);
            requests += usize::from(Request::decode(&bytes).is_ok());
            answers += usize::from(Answer::decode(&bytes).is_ok());
        }
        assert_eq!((requests, answers), (2, 4 + 16));
        let newer = message(REFUSED_LAST, 1);
        let refused = Verdict::Refused(Refused::Other);
        assert_eq!(Answer::decode(&newer), Ok(Answer::Open(InstanceId::from_u128(1), refused)));
    }
}
