//! Which certificate of a member counts, and whose count no more.
//!
//! A certificate's serial grows with each one that a member gets; once a newer one was used, older
//! ones are refused, so that a stolen copy dies with the next renewal. What was removed is refused
//! for ever: its row stays, and its id never joins again.

use insula_model::Timestamp;
use insula_model::fleet::{Enrolment, Member, Serial};

use crate::error::StoreError;
use crate::sql::{Row, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT member, newest, used, since, revoked FROM enrolments";

/// Why a member gets no certificate, or why the one it shows does not count.
#[derive(Debug, thiserror::Error)]
pub enum EnrolRefusal {
    #[error("{member} never joined this fleet")]
    Unknown { member: Member },
    #[error("{member} was removed from this fleet")]
    Revoked { member: Member, at: Timestamp },
    /// Somebody else's token must not make him this member.
    #[error("{member} is in this fleet, with a certificate that still works")]
    Present { member: Member },
    #[error("a newer certificate of {member} was used: somebody else may be speaking in its name")]
    Superseded { member: Member, shown: Serial, used: Serial },
    #[error("no certificate with this number was given to {member}")]
    NeverIssued { member: Member, shown: Serial },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who an id is of: its prefix says.
pub(crate) fn read_member(id: &str) -> Option<Member> {
    let node = || id.parse().map(Member::Node).ok();
    let gateway = || id.parse().map(Member::Gateway).ok();
    let server = || id.parse().map(Member::Server).ok();
    node().or_else(gateway).or_else(server)
}

fn read(row: &mut Row<'_>) -> Result<Enrolment, StoreError> {
    let member = row.text()?;
    Ok(Enrolment {
        member: read_member(&member).ok_or_else(|| row.refuse("not a member's id"))?,
        newest: Serial(row.amount()?),
        used: Serial(row.amount()?),
        since: row.time()?,
        revoked: row.optional_time()?,
    })
}

pub fn get(tx: &Tx, member: Member) -> Result<Option<Enrolment>, StoreError> {
    tx.find(&format!("{SELECT} WHERE member = ?1"), params![member.to_string()], read)
}

/// Everybody who ever joined, by id.
pub fn list(tx: &Tx) -> Result<Vec<Enrolment>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY member"), &[], read)
}

/// The serial of the certificate that makes somebody a member: the first, or the first after all it
/// had have ended, which are those given out before `live_since`.
pub fn enrol(
    tx: &mut Tx,
    member: Member,
    now: Timestamp,
    live_since: Timestamp,
) -> Result<Serial, EnrolRefusal> {
    let present = tx.any(
        "SELECT 1 FROM enrolments
         WHERE member = ?1 AND used > 0 AND issued >= ?2 AND revoked IS NULL",
        params![member.to_string(), live_since],
    )?;
    if present {
        return Err(EnrolRefusal::Present { member });
    }
    issue(tx, member, now)
}

/// The serial of the next certificate of somebody who is a member.
pub fn renew(tx: &mut Tx, member: Member, now: Timestamp) -> Result<Serial, EnrolRefusal> {
    if get(tx, member)?.is_none() {
        return Err(EnrolRefusal::Unknown { member });
    }
    issue(tx, member, now)
}

/// The serial of the next certificate of anybody who was not removed, a newcomer or not: whoever
/// calls this knows already that it is to have one, as a server does of itself.
pub fn issue(tx: &mut Tx, member: Member, now: Timestamp) -> Result<Serial, EnrolRefusal> {
    let next = tx
        .returning(
            "INSERT INTO enrolments (member, role, newest, used, since, issued)
             VALUES (?1, ?2, 1, 0, ?3, ?3)
             ON CONFLICT (member) DO UPDATE SET
                 newest = enrolments.newest + 1, issued = excluded.issued
             WHERE enrolments.revoked IS NULL
             RETURNING newest",
            params![member.to_string(), member.role(), now],
            |row| row.amount().map(Serial),
        )?
        .pop();
    match next {
        Some(serial) => Ok(serial),
        None => Err(refused(tx, member)?),
    }
}

/// Whether a certificate counts, and whether it is the first time that it is used: then
/// `note_used` says so to the others.
pub fn check(tx: &Tx, member: Member, shown: Serial) -> Result<bool, EnrolRefusal> {
    let known = get(tx, member)?.ok_or(EnrolRefusal::Unknown { member })?;
    if let Some(at) = known.revoked {
        return Err(EnrolRefusal::Revoked { member, at });
    }
    if shown < known.used {
        return Err(EnrolRefusal::Superseded { member, shown, used: known.used });
    }
    if shown > known.newest || shown == Serial(0) {
        return Err(EnrolRefusal::NeverIssued { member, shown });
    }
    Ok(shown > known.used)
}

/// Notes that a certificate was used; from here on older ones are refused.
pub fn note_used(tx: &mut Tx, member: Member, shown: Serial) -> Result<(), EnrolRefusal> {
    if !check(tx, member, shown)? {
        return Ok(());
    }
    let noted = tx.execute(
        "UPDATE enrolments SET used = ?2
         WHERE member = ?1 AND used <= ?2 AND newest >= ?2 AND revoked IS NULL",
        params![member.to_string(), shown.0],
    )?;
    // Another server noted a newer one, or its removal, since.
    if noted == 0 { Err(refused(tx, member)?) } else { Ok(()) }
}

/// Ends a member for ever. One who never joined cannot do so any more.
pub fn revoke(tx: &mut Tx, member: Member, now: Timestamp) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO enrolments (member, role, newest, used, since, issued, revoked)
         VALUES (?1, ?2, 0, 0, ?3, ?3, ?3)
         ON CONFLICT (member) DO UPDATE SET revoked = excluded.revoked
         WHERE enrolments.revoked IS NULL",
        params![member.to_string(), member.role(), now],
    )?;
    Ok(())
}

/// When it was removed, if it was.
pub fn revoked(tx: &Tx, member: Member) -> Result<Option<Timestamp>, StoreError> {
    Ok(get(tx, member)?.and_then(|known| known.revoked))
}

fn refused(tx: &Tx, member: Member) -> Result<EnrolRefusal, StoreError> {
    Ok(match get(tx, member)? {
        None => EnrolRefusal::Unknown { member },
        Some(known) => match known.revoked {
            Some(at) => EnrolRefusal::Revoked { member, at },
            None => EnrolRefusal::Superseded { member, shown: known.newest, used: known.used },
        },
    })
}
