//! What crossed the ground, put together: the bytes of each connection in the order in which they
//! were sent, so that a word that two segments cut is found like any other.
//!
//! A tap on a bridge sees each frame more than once, late ones and repeated ones too; here each byte
//! of a connection counts once. What is not TCP is kept frame by frame. Nothing is decrypted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

const ETHERNET_LEN: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV4_LEN_MIN: usize = 20;
const TCP_LEN_MIN: usize = 20;
const TCP: u8 = 6;
const SYN: u8 = 0x02;

/// One direction of TCP connections between the same two ends, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
}

/// Everything that was said.
#[derive(Debug, Default)]
pub struct Said {
    flows: BTreeMap<Flow, Vec<Stream>>,
    /// Whatever is not TCP.
    others: BTreeSet<Vec<u8>>,
}

/// One direction of one connection.
#[derive(Debug)]
struct Stream {
    /// The number of its first byte, or of the first that was heard.
    first: u32,
    /// By their distance from it; one that came late to a tap that began late is before it.
    segments: BTreeMap<i32, Vec<u8>>,
}

struct Segment<'a> {
    flow: Flow,
    begins: bool,
    number: u32,
    payload: &'a [u8],
}

impl Flow {
    /// Between those two ports' owners, whoever called.
    pub fn has_port(&self, port: u16) -> bool {
        self.from.port() == port || self.to.port() == port
    }

    /// Whether it is between these two, in this direction or in the other.
    pub fn is_between(&self, one: Ipv4Addr, other: Ipv4Addr) -> bool {
        let ends = (*self.from.ip(), *self.to.ip());
        ends == (one, other) || ends == (other, one)
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.from, self.to)
    }
}

impl Said {
    /// Takes a frame in, as it was on a wire.
    pub fn hear(&mut self, frame: &[u8]) {
        let Some(segment) = Segment::read(frame) else {
            self.others.insert(frame.to_vec());
            return;
        };
        let number = segment.number.wrapping_add(u32::from(segment.begins));
        let streams = self.flows.entry(segment.flow).or_default();
        // The ends may use their ports again; a repeated beginning has the number of the first.
        let is_next = streams.last().is_none_or(|last| segment.begins && last.first != number);
        if is_next {
            streams.push(Stream { first: number, segments: BTreeMap::new() });
        }
        let Some(stream) = streams.last_mut() else { return };
        if segment.payload.is_empty() {
            return;
        }
        let at = number.wrapping_sub(stream.first).cast_signed();
        let held = stream.segments.entry(at).or_default();
        if held.len() < segment.payload.len() {
            *held = segment.payload.to_vec();
        }
    }

    /// Without the flows that are somebody else's to protect.
    pub fn without(mut self, is_theirs: impl Fn(&Flow) -> bool) -> Self {
        self.flows.retain(|flow, _| !is_theirs(flow));
        self
    }

    /// Where these bytes were said in the clear, a line for each place.
    pub fn holding(&self, marker: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for (flow, streams) in &self.flows {
            let times: usize =
                streams.iter().flat_map(Stream::joined).map(|piece| count(&piece, marker)).sum();
            if times > 0 {
                found.push(format!("{flow}, {times} times"));
            }
        }
        let frames = self.others.iter().filter(|frame| count(frame, marker) > 0).count();
        if frames > 0 {
            found.push(format!("{frames} frames that are not TCP"));
        }
        found
    }

    /// How many bytes were said in flows like that.
    pub fn len_of(&self, wanted: impl Fn(&Flow) -> bool) -> usize {
        let flows = self.flows.iter().filter(|(flow, _)| wanted(flow));
        let pieces = flows.flat_map(|(_, streams)| streams.iter().flat_map(Stream::joined));
        pieces.map(|piece| piece.len()).sum()
    }
}

impl Stream {
    /// Its bytes; a new piece begins where some were not heard.
    fn joined(&self) -> Vec<Vec<u8>> {
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let mut end = i64::MIN;
        for (at, bytes) in &self.segments {
            let at = i64::from(*at);
            let after = at + bytes.len() as i64;
            match pieces.last_mut() {
                Some(piece) if at <= end => {
                    // What was sent again, perhaps with more behind it.
                    let known = usize::try_from(end - at).unwrap_or(usize::MAX);
                    piece.extend_from_slice(bytes.get(known..).unwrap_or_default());
                }
                Some(_) | None => pieces.push(bytes.clone()),
            }
            end = end.max(after);
        }
        pieces
    }
}

impl<'a> Segment<'a> {
    /// Nothing if the frame is not a whole segment of TCP over IPv4.
    fn read(frame: &'a [u8]) -> Option<Self> {
        if frame.get(12..ETHERNET_LEN)? != IPV4 {
            return None;
        }
        let packet = frame.get(ETHERNET_LEN..)?;
        let header_len = usize::from(packet.first()? & 0x0f) * 4;
        let is_part = u16::from_be_bytes([packet.get(6)? & 0x3f, *packet.get(7)?]) != 0;
        if header_len < IPV4_LEN_MIN || *packet.get(9)? != TCP || is_part {
            return None;
        }
        let address = |at: usize| -> Option<Ipv4Addr> {
            let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(octets.into())
        };
        // What is behind the packet fills a short frame up.
        let len = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
        let tcp = packet.get(header_len..len)?;
        let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
        let tcp_len = usize::from(tcp.get(12)? >> 4) * 4;
        if tcp_len < TCP_LEN_MIN {
            return None;
        }
        Some(Self {
            flow: Flow {
                from: SocketAddrV4::new(address(12)?, port(0)?),
                to: SocketAddrV4::new(address(16)?, port(2)?),
            },
            begins: tcp.get(13)? & SYN != 0,
            number: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
            payload: tcp.get(tcp_len..)?,
        })
    }
}

/// How many times the bytes hold the marker.
pub fn count(bytes: &[u8], marker: &[u8]) -> usize {
    let Some((first, rest)) = marker.split_first() else { return 0 };
    let mut left = bytes;
    let mut times = 0;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = &left[at + 1..];
        times += usize::from(left.starts_with(rest));
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &[u8] = b"marker-of-a-secret";
    const ACK: u8 = 0x10;
    const CALLER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 97, 0, 1), 40_000);
    const CALLED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 97, 0, 2), 7_443);

    fn frame(
        from: SocketAddrV4,
        to: SocketAddrV4,
        number: u32,
        flags: u8,
        bytes: &[u8],
    ) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(from.port().to_be_bytes());
        tcp.extend(to.port().to_be_bytes());
        tcp.extend(number.to_be_bytes());
        tcp.extend([0; 4]);
        // With options, as those of Linux have.
        tcp.extend([8 << 4, flags, 0, 0, 0, 0, 0, 0]);
        tcp.extend([1; 12]);
        tcp.extend(bytes);
        let mut frame = vec![0; 12];
        frame.extend(IPV4);
        frame.extend([0x45, 0]);
        frame.extend(u16::try_from(20 + tcp.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
        frame.extend(from.ip().octets());
        frame.extend(to.ip().octets());
        frame.extend(tcp);
        // Ethernet has no shorter ones.
        frame.resize(frame.len().max(60), 0);
        frame
    }

    fn heard(segments: &[(u32, u8, &[u8])]) -> Said {
        let mut said = Said::default();
        for (number, flags, bytes) in segments {
            said.hear(&frame(CALLER, CALLED, *number, *flags, bytes));
        }
        said
    }

    #[test]
    fn a_word_is_found_wherever_segments_cut_it() {
        for cut in 0..=MARKER.len() {
            let (one, two) = MARKER.split_at(cut);
            let second = 8 + u32::try_from(cut).unwrap();
            let said =
                heard(&[(7, SYN, b""), (8, ACK, one), (second, ACK, two), (second, ACK, two)]);
            assert_eq!(
                said.holding(MARKER),
                ["10.97.0.1:40000 → 10.97.0.2:7443, 1 times"],
                "{cut}"
            );
            assert!(said.holding(b"marker-of-a-visitor").is_empty());
            assert_eq!(said.len_of(|flow| flow.has_port(7_443)), MARKER.len());
        }
        let single_bytes: Vec<(u32, u8, &[u8])> =
            (1_u32..).zip(MARKER.chunks(1)).map(|(number, byte)| (number, ACK, byte)).collect();
        assert_eq!(heard(&single_bytes).holding(MARKER).len(), 1);
    }

    #[test]
    fn order_repetition_and_the_end_of_the_numbers_hide_nothing() {
        // The last segment came first, one was repeated with more behind it, and numbers wrap.
        let said = heard(&[
            (u32::MAX - 3, SYN, b""),
            (9, ACK, b"secret!"),
            (u32::MAX - 2, ACK, b"mark"),
            (u32::MAX - 2, ACK, b"marker-"),
            (u32::MAX - 2, ACK, b"mark"),
            (1, ACK, b"er-of"),
            (5, ACK, b"f-a-"),
        ]);
        assert_eq!(said.holding(MARKER), ["10.97.0.1:40000 → 10.97.0.2:7443, 1 times"]);
        let joined: Vec<_> = said.flows.values().flatten().flat_map(Stream::joined).collect();
        assert_eq!(joined, [b"marker-of-a-secret!".to_vec()]);
    }

    #[test]
    fn a_tap_that_begins_late_and_ports_that_are_used_again_are_no_trouble() {
        let late = heard(&[(500, ACK, b"-secret"), (489, ACK, b"marker-of-a")]);
        assert_eq!(late.holding(MARKER).len(), 1);
        // What was not heard joins nothing.
        let gap = heard(&[(500, ACK, b"marker-of"), (510, ACK, b"-a-secret")]);
        assert!(gap.holding(MARKER).is_empty());
        let again = heard(&[
            (7, SYN, b""),
            (8, ACK, b"marker-of"),
            (17, ACK | SYN, b""),
            (18, ACK, MARKER),
        ]);
        assert_eq!(again.holding(MARKER), ["10.97.0.1:40000 → 10.97.0.2:7443, 1 times"]);
    }

    #[test]
    fn flows_are_kept_apart_and_what_is_no_segment_is_searched_as_it_is() {
        let mut said = Said::default();
        said.hear(&frame(CALLER, CALLED, 1, ACK, b"marker-of"));
        said.hear(&frame(CALLED, CALLER, 10, ACK, b"-a-secret"));
        assert!(said.holding(MARKER).is_empty());
        let mut datagram = frame(CALLER, CALLED, 1, ACK, MARKER);
        datagram[ETHERNET_LEN + 9] = 17;
        said.hear(&datagram);
        said.hear(&datagram);
        said.hear(b"no frame marker-of-a-secret");
        assert_eq!(said.holding(MARKER), ["2 frames that are not TCP"]);
        let mut part = frame(CALLER, CALLED, 1, ACK, MARKER);
        part[ETHERNET_LEN + 6] = 0x20;
        said.hear(&part);
        assert_eq!(said.holding(MARKER), ["3 frames that are not TCP"]);
        let said = said.without(|flow| flow.is_between(*CALLED.ip(), *CALLER.ip()));
        assert_eq!(said.len_of(|_| true), 0);
    }
}
