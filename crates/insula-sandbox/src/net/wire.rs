//! Writes and reads netlink messages: header, family header, attributes.
//!
//! Knows alignment and nesting, and nothing of what a message means (see `route` and `nft`).
//! Numbers of rtnetlink are in host order, those of nf_tables in network order; the callers say which.

/// `struct nlmsghdr`: length, type, flags, sequence, port.
pub(super) const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
const NESTED: u16 = 0x8000;
/// The two upper bits of an attribute's type are flags.
const KIND_MASK: u16 = 0x3fff;

/// An attribute's length field has 16 bits; whoever fills a list stops before this.
pub(super) const ATTRIBUTE_BYTES_MAX: usize = u16::MAX as usize;

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// One message under construction. The socket fills in length and sequence when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(family_header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    pub(super) fn attribute(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        // Every payload but a list of elements is a few bytes long, and lists are cut by their writer.
        let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + payload.len())
            .expect("an attribute's payload is shorter than 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
        self
    }

    pub(super) fn host_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    pub(super) fn net_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// A string with the zero byte that the kernel wants behind it.
    pub(super) fn string(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut payload = Vec::with_capacity(text.len() + 1);
        payload.extend_from_slice(text.as_bytes());
        payload.push(0);
        self.attribute(kind, &payload)
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start)
            .expect("a nest is shorter than 64 KiB: lists are cut by their writer");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Bytes in the middle of a nest that are no attribute (`VETH_INFO_PEER` begins with a header).
    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished bytes, numbered so that the answer can be told apart.
    pub(super) fn seal(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a message is shorter than 4 GiB");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    /// The bytes behind the netlink header, for fingerprints.
    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }
}

/// One message as received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

/// Cuts a datagram into messages; stops at the first that does not fit.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER_BYTES)?;
        let length = host_u32(&header[0..4])? as usize;
        let body = bytes.get(HEADER_BYTES..length)?;
        let received = Received {
            kind: host_u16(&header[4..6])?,
            flags: host_u16(&header[6..8])?,
            sequence: host_u32(&header[8..12])?,
            body,
        };
        bytes = bytes.get(aligned(length)..).unwrap_or(&[]);
        Some(received)
    })
}

/// Walks attributes: kind without its flag bits, and payload; stops at the first that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..ATTRIBUTE_HEADER_BYTES)?;
        let length = usize::from(host_u16(&header[0..2])?);
        let kind = host_u16(&header[2..4])? & KIND_MASK;
        let payload = bytes.get(ATTRIBUTE_HEADER_BYTES..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or(&[]);
        Some((kind, payload))
    })
}

pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, payload)| payload)
}

pub(super) fn text(payload: &[u8]) -> String {
    let end = payload.iter().position(|byte| *byte == 0).unwrap_or(payload.len());
    String::from_utf8_lossy(&payload[..end]).into_owned()
}

pub(super) fn host_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub(super) fn host_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

pub(super) fn net_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_these_bytes() {
        let mut message = Message::new(16, 0x0605, &[0xaa, 0xbb]);
        message.string(3, "eth0").nest(18, |nest| {
            nest.host_u32(1, 7).net_u32(2, 7);
        });
        #[rustfmt::skip]
        assert_eq!(message.seal(9), [
            52, 0, 0, 0,  16, 0,  0x05, 0x06,  9, 0, 0, 0,  0, 0, 0, 0, // header
            0xaa, 0xbb, 0, 0,                                          // family header, padded
            9, 0,  3, 0,  b'e', b't', b'h', b'0', 0, 0, 0, 0,          // string, padded
            20, 0,  18, 0x80,                                          // nest
            8, 0,  1, 0,  7, 0, 0, 0,
            8, 0,  2, 0,  0, 0, 0, 7,
        ]);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut message = Message::new(24, 1, &[1, 2, 3, 4]);
        message.string(1, "a").nest(2, |nest| {
            nest.host_u32(3, 5);
        });
        let bytes = message.seal(4);
        let received: Vec<_> = messages(&bytes).collect();
        assert_eq!(received.len(), 1);
        assert_eq!((received[0].kind, received[0].flags, received[0].sequence), (24, 1, 4));
        let attributes = &received[0].body[4..];
        assert_eq!(text(attribute(attributes, 1).unwrap()), "a");
        let inner = attribute(attribute(attributes, 2).unwrap(), 3).unwrap();
        assert_eq!(host_u32(inner), Some(5));
    }

    #[test]
    fn a_cut_or_lying_message_ends_the_walk() {
        let mut message = Message::new(24, 1, &[]);
        message.host_u32(1, 5);
        let bytes = message.seal(1);
        for cut in 0..bytes.len() {
            assert_eq!(messages(&bytes[..cut]).count(), 0, "cut at {cut}");
        }
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0, "a length below its own header");
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0, "a length beyond the end");
    }
}
