//! Where a reader stopped, as text that it can bring back.
//!
//! Several instances write at once, so the last time alone would lose what another instance wrote at
//! nearly that time and we had not seen. A cursor therefore names the last number of every instance
//! seen in its last second; of the others, everything since then is new.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use insula_model::InstanceId;

/// A keeper stamps an entry and writes it in one go; only a stalled disk comes near this.
const SLACK_MS: i64 = 1_000;
/// A cursor must fit in a header line. Beyond it a resumed reader may see lines of the last second
/// twice, never miss one.
const INSTANCES_MAX: usize = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    ms: i64,
    /// Last number, and its time, of each instance. A build has no instance.
    seen: BTreeMap<Option<InstanceId>, (u64, i64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a place in a log; use the one that came with the last lines")]
pub struct CursorError;

impl Cursor {
    /// The oldest time of which something may be new.
    pub(crate) fn since_ms(&self) -> i64 {
        if self.ms == 0 {
            return 0;
        }
        self.ms - SLACK_MS
    }

    /// Whether the entry comes after the cursor.
    pub(crate) fn admits(&self, instance: Option<InstanceId>, seq: u64, ms: i64) -> bool {
        match self.seen.get(&instance) {
            Some((seen, _)) => seq > *seen,
            None => self.ms == 0 || ms > self.ms - SLACK_MS,
        }
    }

    pub(crate) fn advance(&mut self, instance: Option<InstanceId>, seq: u64, ms: i64) {
        self.ms = self.ms.max(ms);
        self.seen.insert(instance, (seq, ms));
        if self.seen.len() > 1 {
            let floor = self.ms - SLACK_MS;
            self.seen.retain(|_, (_, ms)| *ms > floor);
        }
        while self.seen.len() > INSTANCES_MAX {
            let oldest = self.seen.iter().min_by_key(|(_, (_, ms))| *ms).map(|(id, _)| *id);
            oldest.map(|id| self.seen.remove(&id));
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ms)?;
        for (instance, (seq, _)) in &self.seen {
            match instance {
                Some(id) => write!(f, ".{id}-{seq}")?,
                None => write!(f, ".-{seq}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let mut parts = text.split('.');
        let ms = parts.next().and_then(|p| p.parse().ok()).filter(|ms| *ms >= 0);
        let ms: i64 = ms.ok_or(CursorError)?;
        let mut seen = BTreeMap::new();
        for part in parts {
            let (id, seq) = part.split_once('-').ok_or(CursorError)?;
            let id = match id {
                "" => None,
                id => Some(id.parse().map_err(|_| CursorError)?),
            };
            if seen.len() == INSTANCES_MAX {
                return Err(CursorError);
            }
            // Remembering it a little longer than needed is harmless.
            seen.insert(id, (seq.parse().map_err(|_| CursorError)?, ms));
        }
        Ok(Self { ms, seen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Option<InstanceId> {
        Some(InstanceId::from_parts(insula_model::Timestamp::from_millis(5), [n; 10]))
    }

    #[test]
    fn survives_being_text_and_refuses_nonsense() {
        let mut cursor = Cursor::default();
        cursor.advance(id(1), 7, 5_000);
        cursor.advance(id(2), 9, 5_100);
        let back: Cursor = cursor.to_string().parse().unwrap();
        assert_eq!(back.to_string(), cursor.to_string());
        assert!(!back.admits(id(1), 7, 5_000));
        assert!(back.admits(id(1), 8, 5_000));
        for bad in ["", "x", "-5", "5.ins_x-1", "5.-", "5.-x", "5 "] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad}");
        }
    }

    #[test]
    fn a_late_line_of_another_instance_is_new_and_an_old_one_is_not() {
        let mut cursor = Cursor::default();
        assert!(cursor.admits(id(1), 1, 1));
        cursor.advance(id(1), 7, 5_000);
        cursor.advance(id(2), 3, 9_000);
        assert!(cursor.admits(id(3), 1, 8_900));
        assert!(!cursor.admits(id(3), 1, 4_000));
        // Instance 1 was last seen long before: what it wrote before the slack was shown.
        assert!(!cursor.admits(id(1), 7, 5_000));
        assert!(cursor.admits(id(1), 8, 8_500));
    }
}
