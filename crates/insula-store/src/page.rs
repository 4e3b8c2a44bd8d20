//! Lists in pages: a limit, and a cursor that says after which row to go on.
//!
//! A cursor holds the key of the last row that was shown, so rows that come or go meanwhile shift
//! nothing. It is opaque to its holder, names its list, and reveals what its holder has seen.

use std::fmt;
use std::str::FromStr;

use insula_model::limits::{PAGE_DEFAULT, PAGE_MAX};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::StoreError;
use crate::sql::{Row, Select, Value};
use crate::tx::Tx;

/// Two names and an id in hexadecimal, with room.
const CURSOR_LEN_MAX: usize = 512;
/// Sorts after every id and every name of ours.
pub(crate) const LAST: &str = "~";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Beyond `PAGE_MAX` it is `PAGE_MAX`.
    pub limit: usize,
    pub after: Option<Cursor>,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: PAGE_DEFAULT, after: None }
    }
}

impl Page {
    pub fn first(limit: usize) -> Self {
        Self { limit, after: None }
    }

    pub fn after(limit: usize, cursor: Cursor) -> Self {
        Self { limit, after: Some(cursor) }
    }

    pub(crate) fn rows(&self) -> usize {
        self.limit.clamp(1, PAGE_MAX)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T> {
    pub items: Vec<T>,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
}

impl<T> Paged<T> {
    pub fn map<U>(self, map: impl FnMut(T) -> U) -> Paged<U> {
        Paged { items: self.items.into_iter().map(map).collect(), next: self.next }
    }
}

/// Where a list goes on. Its text is safe in a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor: pass on the `next` of an earlier page")]
pub struct CursorError;

impl Cursor {
    pub(crate) fn of(list: &'static str, key: &[String]) -> Self {
        let plain = format!("{list}\n{}", key.join("\n"));
        Self(plain.bytes().map(|b| format!("{b:02x}")).collect())
    }

    /// The parts of the key, if it is a cursor of this list.
    pub(crate) fn key<const N: usize>(
        &self,
        list: &'static str,
    ) -> Result<[String; N], StoreError> {
        let bytes: Option<Vec<u8>> = (0..self.0.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(self.0.get(at..at + 2)?, 16).ok())
            .collect();
        let plain = String::from_utf8(bytes.ok_or(StoreError::Cursor)?);
        let plain = plain.map_err(|_| StoreError::Cursor)?;
        let mut parts = plain.split('\n').map(str::to_owned);
        if parts.next().as_deref() != Some(list) {
            return Err(StoreError::Cursor);
        }
        parts.collect::<Vec<_>>().try_into().map_err(|_| StoreError::Cursor)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;
    fn from_str(text: &str) -> Result<Self, CursorError> {
        let hexadecimal = text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        if text.is_empty() || text.len() > CURSOR_LEN_MAX || text.len() % 2 == 1 || !hexadecimal {
            return Err(CursorError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How a list is ordered. The columns are literals of ours and make a key that is unique in it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// By name, then id.
    Name,
    /// By id, which is by the time of making: the newest last.
    Oldest,
    /// By id: the newest first.
    Newest,
}

/// One page of a select, whose map also gives the name and the id of each row.
pub(crate) fn read<T>(
    tx: &Tx,
    list: &'static str,
    mut select: Select,
    order: Order,
    page: &Page,
    map: impl FnMut(&mut Row<'_>) -> Result<T, StoreError>,
    key: impl Fn(&T) -> (String, String),
) -> Result<Paged<T>, StoreError> {
    let rows = page.rows();
    // One more than asked for tells whether there is a next page.
    let limit = Value::from(rows + 1);
    match order {
        Order::Name => {
            if let Some(cursor) = &page.after {
                let [name, id] = cursor.key(list)?;
                select.and("(name, id) > (?, ?)", [name.into(), id.into()]);
            }
            select.then("ORDER BY name, id LIMIT ?", [limit]);
        }
        Order::Oldest => {
            if let Some(cursor) = &page.after {
                let [id] = cursor.key(list)?;
                select.and("id > ?", [id.into()]);
            }
            select.then("ORDER BY id LIMIT ?", [limit]);
        }
        Order::Newest => {
            let [id] = match &page.after {
                Some(cursor) => cursor.key(list)?,
                None => [LAST.to_owned()],
            };
            select.and("id < ?", [id.into()]);
            select.then("ORDER BY id DESC LIMIT ?", [limit]);
        }
    }
    let mut items = tx.select(&select, map)?;
    let more = items.len() > rows;
    items.truncate(rows);
    let next = items.last().filter(|_| more).map(|last| {
        let (name, id) = key(last);
        match order {
            Order::Name => Cursor::of(list, &[name, id]),
            Order::Oldest | Order::Newest => Cursor::of(list, &[id]),
        }
    });
    Ok(Paged { items, next })
}
