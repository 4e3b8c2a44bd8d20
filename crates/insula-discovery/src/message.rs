//! Reads queries and answers strictly, writes answers. Pure; never panics on a stranger's bytes.

use std::net::Ipv4Addr;

use crate::name::{self, BadName, Name};

pub(crate) const HEADER_BYTES: usize = 12;
/// Fits every path without fragments (the recommendation of DNS flag day 2020).
pub(crate) const UDP_BYTES_MAX: u16 = 1_232;
/// What a client without EDNS can take.
const UDP_BYTES_PLAIN: u16 = 512;

const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_AUTHORITATIVE: u16 = 0x0400;
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const FLAG_CHECKING_DISABLED: u16 = 0x0010;
const OPCODE_MASK: u16 = 0x7800;
const RCODE_MASK: u16 = 0x000f;
const DNSSEC_OK: u32 = 0x8000;

pub(crate) const TYPE_A: u16 = 1;
const TYPE_NS: u16 = 2;
const TYPE_CNAME: u16 = 5;
const TYPE_SOA: u16 = 6;
const TYPE_PTR: u16 = 12;
const TYPE_MX: u16 = 15;
const TYPE_SRV: u16 = 33;
const TYPE_DNAME: u16 = 39;
const TYPE_OPT: u16 = 41;
const TYPE_AXFR: u16 = 252;
const TYPE_IXFR: u16 = 251;
const CLASS_IN: u16 = 1;

/// An OPT record and a signature is all that a query may carry besides its question.
const QUERY_RECORDS_MAX: u16 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rcode {
    NoError,
    FormatError,
    ServerFailure,
    NoSuchName,
    NotImplemented,
    Refused,
    BadVersion,
}

impl Rcode {
    /// The lower four bits stand in the header, the rest in the OPT record.
    fn number(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormatError => 1,
            Self::ServerFailure => 2,
            Self::NoSuchName => 3,
            Self::NotImplemented => 4,
            Self::Refused => 5,
            Self::BadVersion => 16,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) kind: u16,
    pub(crate) class: u16,
}

impl Question {
    fn read(message: &[u8], at: usize) -> Result<(Self, usize), BadMessage> {
        let (name, at) = Name::read(message, at)?;
        let question = Self { name, kind: u16_at(message, at)?, class: u16_at(message, at + 2)? };
        Ok((question, at + 4))
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.name.wire());
        bytes.extend_from_slice(&self.kind.to_be_bytes());
        bytes.extend_from_slice(&self.class.to_be_bytes());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) id: u16,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) question: Question,
    pub(crate) edns: Option<Edns>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMessage {
    #[error("the message is cut short")]
    Cut,
    #[error("bytes stand behind the last record")]
    Trailing,
    #[error("not one question, or records where none belong")]
    Counts,
    #[error("two OPT records, or one with a name")]
    Edns,
    #[error("a record's names do not fill its data")]
    RecordData,
    #[error(transparent)]
    Name(#[from] BadName),
}

/// Why a datagram is not answered as a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reject {
    /// Not even a header, or itself an answer: answering could start a ping-pong.
    Silently,
    With(u16, Rcode),
}

fn u16_at(message: &[u8], at: usize) -> Result<u16, BadMessage> {
    let bytes = message.get(at..at + 2).ok_or(BadMessage::Cut)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn u32_at(message: &[u8], at: usize) -> Result<u32, BadMessage> {
    Ok(u32::from(u16_at(message, at)?) << 16 | u32::from(u16_at(message, at + 2)?))
}

#[derive(Debug, Clone, Copy)]
struct Header {
    id: u16,
    flags: u16,
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

impl Header {
    fn read(message: &[u8]) -> Result<Self, BadMessage> {
        Ok(Self {
            id: u16_at(message, 0)?,
            flags: u16_at(message, 2)?,
            questions: u16_at(message, 4)?,
            answers: u16_at(message, 6)?,
            authorities: u16_at(message, 8)?,
            additionals: u16_at(message, 10)?,
        })
    }

    fn write(self, bytes: &mut Vec<u8>) {
        for field in
            [self.id, self.flags, self.questions, self.answers, self.authorities, self.additionals]
        {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
    }
}

/// A resource record's fixed part.
struct Record {
    /// Where its name begins.
    start: usize,
    kind: u16,
    class: u16,
    ttl_at: usize,
    ttl: u32,
    data_at: usize,
    end: usize,
}

impl Record {
    fn read(message: &[u8], start: usize) -> Result<Self, BadMessage> {
        let at = name::skip(message, start)?;
        let data_at = at + 10;
        let end = data_at + usize::from(u16_at(message, at + 8)?);
        if end > message.len() {
            return Err(BadMessage::Cut);
        }
        let record = Self {
            start,
            kind: u16_at(message, at)?,
            class: u16_at(message, at + 2)?,
            ttl_at: at + 4,
            ttl: u32_at(message, at + 4)?,
            data_at,
            end,
        };
        record.check_names(message)?;
        Ok(record)
    }

    /// Names inside the data may point anywhere before them, so they are walked as well.
    fn check_names(&self, message: &[u8]) -> Result<(), BadMessage> {
        let (before, names, after) = match self.kind {
            TYPE_NS | TYPE_CNAME | TYPE_PTR | TYPE_DNAME => (0, 1, 0),
            TYPE_MX => (2, 1, 0),
            TYPE_SRV => (6, 1, 0),
            TYPE_SOA => (0, 2, 20),
            _ => return Ok(()),
        };
        let mut at = self.data_at + before;
        for _ in 0..names {
            at = name::skip(message, at)?;
        }
        if at + after == self.end { Ok(()) } else { Err(BadMessage::RecordData) }
    }

    fn edns(&self, message: &[u8]) -> Result<Edns, BadMessage> {
        if message.get(self.start) != Some(&0) {
            return Err(BadMessage::Edns);
        }
        let [_, version, ..] = self.ttl.to_be_bytes();
        Ok(Edns { payload: self.class, version, dnssec_ok: self.ttl & DNSSEC_OK != 0 })
    }
}

pub(crate) fn read_query(message: &[u8]) -> Result<Query, Reject> {
    let header = Header::read(message).map_err(|_| Reject::Silently)?;
    if header.flags & FLAG_RESPONSE != 0 {
        return Err(Reject::Silently);
    }
    if header.flags & OPCODE_MASK != 0 {
        return Err(Reject::With(header.id, Rcode::NotImplemented));
    }
    let query =
        read_sections(message, header).map_err(|_| Reject::With(header.id, Rcode::FormatError))?;
    if matches!(query.question.kind, TYPE_AXFR | TYPE_IXFR | TYPE_OPT) {
        return Err(Reject::With(header.id, Rcode::NotImplemented));
    }
    if query.question.class != CLASS_IN {
        return Err(Reject::With(header.id, Rcode::Refused));
    }
    Ok(query)
}

fn read_sections(message: &[u8], header: Header) -> Result<Query, BadMessage> {
    let empty = header.answers == 0 && header.authorities == 0;
    if header.questions != 1 || !empty || header.additionals > QUERY_RECORDS_MAX {
        return Err(BadMessage::Counts);
    }
    let (question, mut at) = Question::read(message, HEADER_BYTES)?;
    let mut edns = None;
    for _ in 0..header.additionals {
        let record = Record::read(message, at)?;
        if record.kind == TYPE_OPT && edns.replace(record.edns(message)?).is_some() {
            return Err(BadMessage::Edns);
        }
        at = record.end;
    }
    if at != message.len() {
        return Err(BadMessage::Trailing);
    }
    Ok(Query {
        id: header.id,
        recursion_desired: header.flags & FLAG_RECURSION_DESIRED != 0,
        checking_disabled: header.flags & FLAG_CHECKING_DISABLED != 0,
        question,
        edns,
    })
}

impl Query {
    /// The question for an upstream: nothing of the client's but what it asks.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let checking = if self.checking_disabled { FLAG_CHECKING_DISABLED } else { 0 };
        Header {
            id: self.id,
            flags: FLAG_RECURSION_DESIRED | checking,
            questions: 1,
            answers: 0,
            authorities: 0,
            additionals: u16::from(self.edns.is_some()),
        }
        .write(&mut bytes);
        self.question.write(&mut bytes);
        if let Some(edns) = self.edns {
            write_opt(&mut bytes, Rcode::NoError, edns.dnssec_ok);
        }
        bytes
    }

    /// How long an answer by UDP may be.
    pub(crate) fn udp_limit(&self) -> usize {
        let payload = self.edns.map_or(UDP_BYTES_PLAIN, |edns| edns.payload);
        usize::from(payload.clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX))
    }

    fn response_flags(&self, rcode: Rcode) -> u16 {
        let desired = if self.recursion_desired { FLAG_RECURSION_DESIRED } else { 0 };
        let checking = if self.checking_disabled { FLAG_CHECKING_DISABLED } else { 0 };
        FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | desired | checking | rcode.number() & RCODE_MASK
    }

    /// An answer of our own, from what we know.
    pub(crate) fn answer(&self, addresses: &[Ipv4Addr], ttl_s: u32) -> Vec<u8> {
        self.respond(Rcode::NoError, FLAG_AUTHORITATIVE, addresses, ttl_s)
    }

    pub(crate) fn no_such_name(&self) -> Vec<u8> {
        self.respond(Rcode::NoSuchName, FLAG_AUTHORITATIVE, &[], 0)
    }

    pub(crate) fn fail(&self, rcode: Rcode) -> Vec<u8> {
        self.respond(rcode, 0, &[], 0)
    }

    /// What a client gets by UDP when the whole does not fit: it comes back by TCP.
    pub(crate) fn truncated(&self) -> Vec<u8> {
        self.respond(Rcode::NoError, FLAG_TRUNCATED, &[], 0)
    }

    fn respond(&self, rcode: Rcode, flags: u16, addresses: &[Ipv4Addr], ttl_s: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 16 * addresses.len());
        Header {
            id: self.id,
            flags: self.response_flags(rcode) | flags,
            questions: 1,
            // A zone's component has at most as many addresses as a pool, 65,533.
            answers: u16::try_from(addresses.len()).unwrap_or(u16::MAX),
            authorities: 0,
            additionals: u16::from(self.edns.is_some()),
        }
        .write(&mut bytes);
        self.question.write(&mut bytes);
        for address in addresses.iter().take(usize::from(u16::MAX)) {
            // The name is the question's, which always stands behind the header.
            bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
            bytes.extend_from_slice(&ttl_s.to_be_bytes());
            bytes.extend_from_slice(&[0, 4]);
            bytes.extend_from_slice(&address.octets());
        }
        if let Some(edns) = self.edns {
            write_opt(&mut bytes, rcode, edns.dnssec_ok);
        }
        bytes
    }
}

fn write_opt(bytes: &mut Vec<u8>, rcode: Rcode, dnssec_ok: bool) {
    let upper = u32::from(rcode.number() >> 4) << 24;
    bytes.extend_from_slice(&[0, 0, 41]);
    bytes.extend_from_slice(&UDP_BYTES_MAX.to_be_bytes());
    bytes.extend_from_slice(&(upper | if dnssec_ok { DNSSEC_OK } else { 0 }).to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
}

/// An answer to something whose question could not even be read.
pub(crate) fn bare_failure(id: u16, rcode: Rcode) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    let flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | rcode.number() & RCODE_MASK;
    Header { id, flags, questions: 0, answers: 0, authorities: 0, additionals: 0 }
        .write(&mut bytes);
    bytes
}

/// A well-formed answer from an upstream, and what is needed to pass it on and keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
    ttl_offsets: Vec<usize>,
    pub(crate) verdict: Verdict,
    /// How long it may be kept; `None`: not at all.
    pub(crate) keep_s: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Final,
    /// Ask again by TCP.
    Truncated,
    /// The upstream could not or would not; another one may.
    Failed,
}

/// Why a datagram is not the answer that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTheAnswer {
    #[error("it has another id or another question, or is no answer")]
    Other,
    /// The right answer of a server that does not keep the case, or a forger's guess.
    #[error("its question is in another letter case")]
    Case,
    #[error("it is malformed")]
    Malformed(#[from] BadMessage),
}

/// Checks that `bytes` answer `asked`.
pub(crate) fn read_answer(asked: &Query, bytes: Vec<u8>) -> Result<Answer, NotTheAnswer> {
    let header = Header::read(&bytes)?;
    let is_answer = header.flags & FLAG_RESPONSE != 0 && header.flags & OPCODE_MASK == 0;
    if header.id != asked.id || !is_answer || header.questions != 1 {
        return Err(NotTheAnswer::Other);
    }
    let (question, mut at) = Question::read(&bytes, HEADER_BYTES)?;
    if question != asked.question {
        let folded = |it: &Question| (it.name.lowercase(), it.kind, it.class);
        let same = folded(&question) == folded(&asked.question);
        return Err(if same { NotTheAnswer::Case } else { NotTheAnswer::Other });
    }

    let mut ttl_offsets = Vec::new();
    let mut answers_ttl: Option<u32> = None;
    let mut negative_ttl = None;
    let sections =
        [(header.answers, true), (header.authorities, false), (header.additionals, false)];
    for (count, is_answer) in sections {
        for _ in 0..count {
            let record = Record::read(&bytes, at)?;
            at = record.end;
            if record.kind == TYPE_OPT {
                continue; // Its TTL is none.
            }
            ttl_offsets.push(record.ttl_at);
            if is_answer {
                answers_ttl = Some(answers_ttl.map_or(record.ttl, |least| least.min(record.ttl)));
            } else if record.kind == TYPE_SOA {
                negative_ttl = Some(record.ttl.min(u32_at(&bytes, record.end - 4)?));
            }
        }
    }
    if at != bytes.len() {
        return Err(BadMessage::Trailing.into());
    }

    let rcode = header.flags & RCODE_MASK;
    let found = rcode == Rcode::NoError.number();
    let verdict = if header.flags & FLAG_TRUNCATED != 0 {
        Verdict::Truncated
    } else if found || rcode == Rcode::NoSuchName.number() {
        Verdict::Final
    } else {
        Verdict::Failed
    };
    let keep_s = match verdict {
        Verdict::Final if found && header.answers > 0 => answers_ttl,
        Verdict::Final => negative_ttl,
        Verdict::Truncated | Verdict::Failed => None,
    };
    Ok(Answer { bytes, ttl_offsets, verdict, keep_s })
}

impl Answer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The answer as the answer to `query`, which asks the same thing, after `age_s` in the cache.
    pub(crate) fn for_query(&self, query: &Query, age_s: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[0..2].copy_from_slice(&query.id.to_be_bytes());
        let upstream = u16::from_be_bytes([bytes[2], bytes[3]]);
        let own = FLAG_RECURSION_DESIRED | FLAG_RECURSION_AVAILABLE | FLAG_AUTHORITATIVE;
        let asked = if query.recursion_desired { FLAG_RECURSION_DESIRED } else { 0 };
        let flags = upstream & !own | asked | FLAG_RECURSION_AVAILABLE;
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        // The client's own case. Equal names are equally long, and other names may point here.
        let name = query.question.name.wire();
        bytes[HEADER_BYTES..HEADER_BYTES + name.len()].copy_from_slice(name);
        for at in &self.ttl_offsets {
            let field = *at..*at + 4;
            let ttl = u32_at(&bytes, *at).unwrap_or(0).saturating_sub(age_s);
            bytes[field].copy_from_slice(&ttl.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `DB.example` A, by EDNS with room for 4,096 bytes.
    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\
        \x02DB\x07example\x00\x00\x01\x00\x01\
        \x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x00";
    const QUESTION_END: usize = 28;

    fn query() -> Query {
        read_query(QUERY).unwrap()
    }

    fn plain() -> Vec<u8> {
        let mut bytes = QUERY[..QUESTION_END].to_vec();
        bytes[11] = 0;
        bytes
    }

    fn changed(at: usize, to: u8) -> Vec<u8> {
        let mut bytes = QUERY.to_vec();
        bytes[at] = to;
        bytes
    }

    /// The answer to `plain`, with these records in its answer section.
    fn answered(records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = plain();
        bytes[2] = 0x81;
        bytes[7] = u8::try_from(records.len()).unwrap();
        bytes.extend(records.concat());
        bytes
    }

    fn read_plain(bytes: Vec<u8>) -> Result<Answer, NotTheAnswer> {
        read_answer(&read_query(&plain()).unwrap(), bytes)
    }

    const ADDRESS: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x09\x09\x09\x09";

    #[test]
    fn a_query_is_read_and_written_the_same() {
        let query = query();
        assert_eq!(query.id, 0x1234);
        assert_eq!(query.edns, Some(Edns { payload: 4_096, version: 0, dnssec_ok: true }));
        assert_eq!(query.udp_limit(), 1_232);
        let mut ours = QUERY.to_vec();
        ours[QUESTION_END + 3..QUESTION_END + 5].copy_from_slice(&UDP_BYTES_MAX.to_be_bytes());
        assert_eq!(query.write(), ours);
        assert_eq!(read_query(&plain()).unwrap().udp_limit(), 512);
    }

    #[test]
    fn an_answer_of_ours_is_these_bytes() {
        let bytes = read_query(&plain()).unwrap().answer(&[[10, 87, 0, 9].into()], 1);
        let mut expected = plain();
        expected[2..4].copy_from_slice(&[0x85, 0x80]);
        expected[7] = 1;
        expected.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\x0a\x57\x00\x09");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn hostile_queries_are_refused_or_ignored() {
        let with = |rcode| Err(Reject::With(0x1234, rcode));
        assert_eq!(read_query(&QUERY[..11]), Err(Reject::Silently), "no header");
        assert_eq!(read_query(&changed(2, 0x81)), Err(Reject::Silently), "an answer");
        assert_eq!(read_query(&changed(2, 0x29)), with(Rcode::NotImplemented), "an update");
        assert_eq!(read_query(&changed(5, 0)), with(Rcode::FormatError), "no question");
        assert_eq!(read_query(&changed(5, 2)), with(Rcode::FormatError), "two questions");
        assert_eq!(read_query(&changed(7, 1)), with(Rcode::FormatError), "an answer inside");
        assert_eq!(read_query(&changed(11, 3)), with(Rcode::FormatError), "many records");
        assert_eq!(read_query(&changed(12, 0xc0)), with(Rcode::FormatError), "a pointer");
        assert_eq!(read_query(&changed(25, 252)), with(Rcode::NotImplemented), "a transfer");
        assert_eq!(read_query(&changed(27, 3)), with(Rcode::Refused), "version.bind's class");
        let trailing = [QUERY, b"x"].concat();
        assert_eq!(read_query(&trailing), with(Rcode::FormatError), "trailing bytes");
        let mut twice = [QUERY, &QUERY[QUESTION_END..]].concat();
        twice[11] = 2;
        assert_eq!(read_query(&twice), with(Rcode::FormatError), "EDNS twice");
    }

    #[test]
    fn no_bytes_make_us_panic() {
        let answer =
            answered(&[ADDRESS, b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x0f"]);
        for whole in [QUERY, &answer] {
            for cut in 0..=whole.len() {
                let _ = read_query(&whole[..cut]);
                let _ = read_answer(&query(), whole[..cut].to_vec());
            }
            for at in 0..whole.len() {
                for value in 0..=u8::MAX {
                    let mut bytes = whole.to_vec();
                    bytes[at] = value;
                    if let Ok(query) = read_query(&bytes) {
                        assert!(query.write().len() <= bytes.len() + HEADER_BYTES);
                    }
                    if let Ok(answer) = read_plain(bytes) {
                        let query = read_query(&plain()).unwrap();
                        assert_eq!(answer.for_query(&query, 7).len(), answer.len());
                    }
                }
            }
        }
    }

    #[test]
    fn an_answer_is_passed_on_in_the_clients_words() {
        let answer = read_plain(answered(&[ADDRESS])).unwrap();
        assert_eq!((answer.verdict, answer.keep_s), (Verdict::Final, Some(60)));
        let mut client = read_query(&plain()).unwrap();
        client.id = 0x7777;
        client.question.name = client.question.name.lowercase();
        let bytes = answer.for_query(&client, 50);
        assert_eq!(bytes[..2], [0x77, 0x77]);
        assert_eq!(&bytes[12..23], b"\x02db\x07example");
        assert_eq!(bytes[QUESTION_END + 6..QUESTION_END + 10], [0, 0, 0, 10]);
    }

    #[test]
    fn only_the_answer_to_our_question_is_taken() {
        let mut other_id = answered(&[ADDRESS]);
        other_id[0] ^= 1;
        assert_eq!(read_plain(other_id), Err(NotTheAnswer::Other));
        let mut other_name = answered(&[ADDRESS]);
        other_name[14] = b'X';
        assert_eq!(read_plain(other_name), Err(NotTheAnswer::Other));
        let mut other_type = answered(&[ADDRESS]);
        other_type[25] = 28;
        assert_eq!(read_plain(other_type), Err(NotTheAnswer::Other));
        let mut other_case = answered(&[ADDRESS]);
        other_case[13] = b'd';
        assert_eq!(read_plain(other_case), Err(NotTheAnswer::Case));
        assert_eq!(read_plain(plain()), Err(NotTheAnswer::Other), "our own question");
    }

    #[test]
    fn hostile_answers_are_refused() {
        let loops = b"\xc0\x1c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x09\x09\x09\x09";
        let inner = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x28";
        let short = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x03\xc0\x0c\x00";
        let long = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x05\x09\x09\x09\x09";
        for (what, record) in [
            ("a name that points at itself", loops.as_slice()),
            ("a pointer loop in the data", inner),
            ("data behind the name", short),
            ("data beyond the end", long),
        ] {
            let refused = read_plain(answered(&[record]));
            assert!(matches!(refused, Err(NotTheAnswer::Malformed(_))), "{what}: {refused:?}");
        }
        let mut lying = answered(&[ADDRESS]);
        lying[7] = 2;
        assert!(matches!(read_plain(lying), Err(NotTheAnswer::Malformed(_))));
        let trailing = [answered(&[ADDRESS]).as_slice(), b"x"].concat();
        assert_eq!(read_plain(trailing), Err(BadMessage::Trailing.into()));
    }

    #[test]
    fn failures_and_absence_are_told_apart() {
        let with_rcode = |rcode| {
            let mut bytes = answered(&[]);
            bytes[3] = rcode;
            bytes
        };
        let verdict = |bytes| {
            let answer = read_plain(bytes).unwrap();
            (answer.verdict, answer.keep_s)
        };
        assert_eq!(verdict(with_rcode(2)), (Verdict::Failed, None));
        assert_eq!(verdict(with_rcode(5)), (Verdict::Failed, None));
        assert_eq!(verdict(with_rcode(3)), (Verdict::Final, None), "no SOA, so not kept");
        let mut absent = with_rcode(3);
        absent[9] = 1;
        absent.extend(b"\x00\x00\x06\x00\x01\x00\x00\x0e\x10\x00\x16\x00\x00");
        absent.extend([0; 16]);
        absent.extend(30_u32.to_be_bytes());
        assert_eq!(verdict(absent), (Verdict::Final, Some(30)));
    }
}
