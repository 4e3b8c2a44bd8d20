//! The framing rules for strangers' HTTP/1 bytes, checked before a parser sees them. Pure.
//!
//! Two parsers that disagree about where a request ends are how one visitor's bytes become
//! another's request. So what RFC 9112 lets a server repair is refused here: a message has one
//! meaning or none. What passes is rebuilt by us before it goes on, never copied.

pub(crate) mod chunk;
pub(crate) mod head;

/// Why a request is not looked at any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The sentence is for whoever sent it.
    Malformed(&'static str),
    HeadTooLarge,
    Version,
    /// The head did not come in time.
    TooSlow,
}
