//! Domain names as they stand in a message.
//!
//! A question's name is read without compression: nothing stands before it that it could point to.
//! Names in answers are only walked over; a pointer must lead backwards, so no walk is endless.

/// RFC 1035: with all length bytes and the root.
const NAME_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;
const POINTER: u8 = 0xc0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("the name ends outside the message")]
    Cut,
    #[error("the name is longer than 255 bytes")]
    Long,
    #[error("a label is neither text nor a pointer")]
    Label,
    #[error("a pointer does not lead backwards")]
    Pointer,
}

/// A name in wire form, in the letter case in which it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    wire: Vec<u8>,
}

impl Name {
    /// Reads an uncompressed name; returns it and where it ends.
    pub(crate) fn read(message: &[u8], start: usize) -> Result<(Self, usize), BadName> {
        let mut at = start;
        loop {
            let length = usize::from(*message.get(at).ok_or(BadName::Cut)?);
            if length > LABEL_BYTES_MAX {
                return Err(BadName::Label);
            }
            at += 1 + length;
            if at - start > NAME_BYTES_MAX {
                return Err(BadName::Long);
            }
            if length == 0 {
                let wire = message.get(start..at).ok_or(BadName::Cut)?.to_vec();
                return Ok((Self { wire }, at));
            }
        }
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// From the left; the root has none.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.wire.as_slice();
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first()?;
            let label = tail.get(..usize::from(*length)).filter(|label| !label.is_empty())?;
            rest = &tail[label.len()..];
            Some(label)
        })
    }

    /// The same name in one case, for comparing and as a key. Length bytes are below any letter.
    pub(crate) fn lowercase(&self) -> Self {
        Self { wire: self.wire.to_ascii_lowercase() }
    }

    /// Letters in a case that a forger would have to guess; one bit of `coins` for each.
    pub(crate) fn with_case(&self, coins: &[u8]) -> Self {
        let mut wire = self.wire.clone();
        for (index, byte) in wire.iter_mut().enumerate() {
            let coin = coins.get(index / 8).is_some_and(|bits| bits >> (index % 8) & 1 == 1);
            if byte.is_ascii_alphabetic() && coin {
                *byte ^= 0x20;
            }
        }
        Self { wire }
    }
}

/// Where the name at `start` ends, compression honoured and checked.
pub(crate) fn skip(message: &[u8], start: usize) -> Result<usize, BadName> {
    let mut at = start;
    // A pointer may only lead to before the part that holds it.
    let mut part = start;
    let mut end = None;
    let mut length = 0;
    loop {
        let first = *message.get(at).ok_or(BadName::Cut)?;
        if first & POINTER == POINTER {
            let second = *message.get(at + 1).ok_or(BadName::Cut)?;
            let target = usize::from(u16::from_be_bytes([first & !POINTER, second]));
            if target >= part {
                return Err(BadName::Pointer);
            }
            end.get_or_insert(at + 2);
            (at, part) = (target, target);
            continue;
        }
        if first & POINTER != 0 {
            return Err(BadName::Label);
        }
        at += 1 + usize::from(first);
        length += 1 + usize::from(first);
        if length > NAME_BYTES_MAX {
            return Err(BadName::Long);
        }
        if first == 0 {
            return Ok(end.unwrap_or(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        let mut wire = Vec::new();
        for label in text.split('.').filter(|label| !label.is_empty()) {
            wire.push(u8::try_from(label.len()).unwrap());
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        Name::read(&wire, 0).unwrap().0
    }

    #[test]
    fn labels_come_from_the_left() {
        let labels: Vec<_> = name("db.shop.internal").labels().map(<[u8]>::to_vec).collect();
        assert_eq!(labels, [b"db".to_vec(), b"shop".to_vec(), b"internal".to_vec()]);
        assert_eq!(name("").labels().count(), 0);
    }

    #[test]
    fn case_is_kept_mixed_and_folded() {
        let mixed = name("db.Shop").with_case(&[0xff, 0xff]);
        assert_eq!(mixed, name("DB.sHOP"));
        assert_eq!(mixed.lowercase(), name("db.shop"));
        assert_eq!(name("a-1.b").with_case(&[0; 9]), name("a-1.b"));
    }

    #[test]
    fn hostile_names_are_refused() {
        let long_label = [[64_u8].as_slice(), &[b'a'; 64], &[0]].concat();
        assert_eq!(Name::read(&long_label, 0), Err(BadName::Label));
        let long_name = [[[63].as_slice(), &[b'a'; 63]].concat().repeat(4), vec![0]].concat();
        assert_eq!(Name::read(&long_name, 0), Err(BadName::Long));
        assert_eq!(skip(&long_name, 0), Err(BadName::Long));
        assert_eq!(Name::read(&[3, b'a'], 0), Err(BadName::Cut));
        assert_eq!(Name::read(&[0xc0, 0], 0), Err(BadName::Label), "a question has no pointers");
        assert_eq!(skip(&[0x40, 0], 0), Err(BadName::Label));
        assert_eq!(skip(&[0xc0], 0), Err(BadName::Cut));
        assert_eq!(skip(&[], 0), Err(BadName::Cut));
    }

    #[test]
    fn pointers_only_lead_backwards() {
        let message = [1, b'a', 0, 1, b'b', 0xc0, 0, 0xc0, 3];
        assert_eq!(skip(&message, 3), Ok(7));
        assert_eq!(skip(&message, 7), Ok(9), "a pointer to a name that ends in a pointer");
        assert_eq!(skip(&[0xc0, 0], 0), Err(BadName::Pointer), "itself");
        assert_eq!(skip(&[0xc0, 2, 0xc0, 0], 2), Err(BadName::Pointer), "each other");
        assert_eq!(skip(&[1, b'a', 0xc0, 0], 0), Err(BadName::Pointer), "its own beginning");
        assert_eq!(
            skip(&[1, b'a', 0xc0, 0], 2),
            Err(BadName::Pointer),
            "into a name that comes back"
        );
    }
}
