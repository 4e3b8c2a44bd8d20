//! The head of a request on its way to an app, and of an answer on its way back. Pure.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use insula_kit::trace::{RequestId, TraceParent};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What frameworks believe about the visitor, set by us alone. The last ones we do not set; apps
/// believe them all the same.
const SPOKEN_BY_US: [HeaderName; 8] = [
    FOR,
    PROTO,
    FORWARDED_HOST,
    PREFIX,
    FORWARDED,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-ssl"),
    HeaderName::from_static("x-real-ip"),
];

/// What concerns one connection alone, beside what `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What `Connection` may not name: an attacker would take the ground from under what follows.
const NEVER_NAMED: [HeaderName; 2] = [HOST, CONTENT_LENGTH];

/// What an app is told about the visit.
#[derive(Debug)]
pub(crate) struct Visitor<'v> {
    pub(crate) peer: IpAddr,
    /// A proxy of the operator's: what it says of the visitor is passed on.
    pub(crate) peer_trusted: bool,
    pub(crate) host: &'v HeaderValue,
    /// Empty if the whole path goes on.
    pub(crate) prefix: &'v str,
    pub(crate) id: &'v RequestId,
    pub(crate) trace: TraceParent,
}

pub(crate) fn to_app(headers: &mut HeaderMap, visitor: &Visitor<'_>) {
    let before = Before::of(headers, visitor.peer_trusted);
    let trailers = headers.get_all(TE).iter().any(names_trailers);
    drop_hop_by_hop(headers);
    drop_disguised(headers);
    for name in SPOKEN_BY_US {
        headers.remove(name);
    }
    headers.remove(HTTP2_SETTINGS);
    // We answer it ourselves, when the app begins to take the body.
    headers.remove(EXPECT);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.insert(HOST, visitor.host.clone());
    let peer = visitor.peer.to_string();
    let chain = before.chain.map_or(peer.clone(), |chain| format!("{chain}, {peer}"));
    set(headers, FOR, &chain);
    headers.insert(PROTO, HeaderValue::from_static(before.proto.unwrap_or("http")));
    headers.insert(FORWARDED_HOST, before.host.unwrap_or_else(|| visitor.host.clone()));
    if !visitor.prefix.is_empty() {
        set(headers, PREFIX, visitor.prefix);
    }
    set(headers, REQUEST_ID, visitor.id.as_str());
    set(headers, TRACE_PARENT, &visitor.trace.to_string());
}

pub(crate) fn to_visitor(headers: &mut HeaderMap, id: &RequestId) {
    // RFC 9112 §6.3: of the two, the length is the one that was made up.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    drop_hop_by_hop(headers);
    set(headers, REQUEST_ID, id.as_str());
}

/// The protocol a visitor wants to go on with, if he asks for one that we pass on.
pub(crate) fn upgrade_asked(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut named = connection_options(headers);
    if !named.any(|option| option.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let mut values = headers.get_all(UPGRADE).iter();
    let (protocol, None) = (values.next()?, values.next()) else { return None };
    // HTTP/2 is a matter of this connection, and the list forms are nobody's.
    let text = protocol.to_str().ok()?;
    let passed = !text.is_empty() && !text.contains(',') && !text.eq_ignore_ascii_case("h2c");
    passed.then(|| protocol.clone())
}

pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// The target for an app: what follows the prefix of its route, beginning with a slash.
pub(crate) fn target(given: &PathAndQuery, prefix_len: usize) -> PathAndQuery {
    let rest = given.as_str().get(prefix_len..).unwrap_or_default();
    let rooted = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    // A part of what was a target is one; if not, the app decides about the whole.
    rooted.parse().unwrap_or_else(|_| given.clone())
}

pub(crate) fn request_id(headers: &HeaderMap) -> Option<RequestId> {
    headers.get(REQUEST_ID)?.to_str().ok()?.parse().ok()
}

pub(crate) fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACE_PARENT).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    value.to_str().ok()?.parse().ok()
}

/// What a trusted proxy has said.
struct Before {
    chain: Option<String>,
    proto: Option<&'static str>,
    host: Option<HeaderValue>,
}

impl Before {
    fn of(headers: &HeaderMap, trusted: bool) -> Self {
        if !trusted {
            return Self { chain: None, proto: None, host: None };
        }
        let addresses: Vec<&str> = headers
            .get_all(FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect();
        let sound = !addresses.is_empty()
            && addresses.iter().all(|address| address.parse::<IpAddr>().is_ok());
        let proto = match headers.get(PROTO).map(HeaderValue::as_bytes) {
            Some(b"https") => Some("https"),
            Some(b"http") => Some("http"),
            Some(_) | None => None,
        };
        let host = headers
            .get(FORWARDED_HOST)
            .filter(|host| host.to_str().ok().and_then(crate::host::normalise).is_some());
        Self { chain: sound.then(|| addresses.join(", ")), proto, host: host.cloned() }
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_options(headers)
        .filter_map(|option| option.parse().ok())
        .filter(|name| !NEVER_NAMED.contains(name))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// `X_Forwarded_For` is `X-Forwarded-For` to everything that was once CGI.
fn drop_disguised(headers: &mut HeaderMap) {
    let is_ours = |name: &str| {
        let plain = name.replace('_', "-");
        SPOKEN_BY_US.iter().chain(&[REQUEST_ID, TRACE_PARENT, HOST]).any(|ours| *ours == *plain)
            || plain == CONTENT_LENGTH.as_str()
            || plain == TRANSFER_ENCODING.as_str()
    };
    let disguised: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_') && is_ours(name.as_str()))
        .cloned()
        .collect();
    for name in disguised {
        headers.remove(name);
    }
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|option| !option.is_empty())
}

fn names_trailers(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| {
        text.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    })
}

/// Texts of ours are visible ASCII; one that is not is left out rather than sent on.
fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(given: &[(&str, &str)], trusted: bool) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let visitor = Visitor {
            peer: [192, 0, 2, 7].into(),
            peer_trusted: trusted,
            host: &HeaderValue::from_static("Shop.example:8080"),
            prefix: "/api",
            id: &"req_1".parse().unwrap(),
            trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap(),
        };
        to_app(&mut headers, &visitor);
        let mut lines: Vec<_> =
            headers.iter().map(|(n, v)| format!("{n}: {}\n", v.to_str().unwrap())).collect();
        lines.sort();
        lines.concat()
    }

    const OURS: &str = "\
host: Shop.example:8080
traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
x-forwarded-for: 192.0.2.7
x-forwarded-host: Shop.example:8080
x-forwarded-prefix: /api
x-forwarded-proto: http
x-request-id: req_1
";

    #[test]
    fn what_a_stranger_says_of_himself_is_replaced() {
        let spoofed = [
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-For", "127.0.0.1"),
            ("X_Forwarded_For", "127.0.0.1"),
            ("X-Forwarded_Proto", "https"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil"),
            ("X-Forwarded-Prefix", "/evil"),
            ("X-Forwarded-Port", "443"),
            ("X-Real-IP", "127.0.0.1"),
            ("Forwarded", "for=127.0.0.1"),
            ("Content_Length", "3"),
            ("Traceparent", "nonsense"),
        ];
        assert_eq!(forwarded(&spoofed, false), OURS);
    }

    #[test]
    fn a_trusted_proxy_is_believed_as_far_as_it_makes_sense() {
        let said = [
            ("X-Forwarded-For", "203.0.113.9, 198.51.100.2"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "shop.example.org"),
        ];
        let lines = forwarded(&said, true);
        assert!(
            lines.contains("x-forwarded-for: 203.0.113.9, 198.51.100.2, 192.0.2.7\n"),
            "{lines}"
        );
        assert!(lines.contains("x-forwarded-proto: https\n"), "{lines}");
        assert!(lines.contains("x-forwarded-host: shop.example.org\n"), "{lines}");
        let nonsense = [
            ("X-Forwarded-For", "<script>"),
            ("X-Forwarded-Proto", "gopher"),
            ("X-Forwarded-Host", "a b"),
        ];
        assert_eq!(forwarded(&nonsense, true), OURS);
    }

    #[test]
    fn what_concerns_one_connection_stays_on_it() {
        let given = [
            ("Connection", "close, X-Private, Host, content-length"),
            ("Content-Length", "0"),
            ("X-Private", "1"),
            ("Keep-Alive", "1"),
            ("Proxy-Authorization", "Basic x"),
            ("TE", "gzip"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AA"),
            ("Expect", "100-continue"),
        ];
        assert_eq!(forwarded(&given, false), format!("content-length: 0\n{OURS}"));
    }

    #[test]
    fn a_prefix_is_taken_off_and_the_rest_begins_with_a_slash() {
        for (given, prefix, want) in [
            ("/api/a?b=/api", "/api", "/a?b=/api"),
            ("/api", "/api", "/"),
            ("/api?x", "/api", "/?x"),
            ("/api/", "/api", "/"),
            ("/a%2Fb/../c", "", "/a%2Fb/../c"),
        ] {
            assert_eq!(target(&given.parse().unwrap(), prefix.len()), want, "{given}");
        }
    }

    #[test]
    fn only_a_whole_wish_to_upgrade_is_one() {
        let asked = |given: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            upgrade_asked(&headers)
        };
        let websocket = asked(&[("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket")]);
        assert_eq!(websocket.unwrap(), "websocket");
        assert!(asked(&[("Upgrade", "websocket")]).is_none());
        assert!(asked(&[("Connection", "Upgrade")]).is_none());
        assert!(asked(&[("Connection", "Upgrade"), ("Upgrade", "h2c")]).is_none());
        assert!(asked(&[("Connection", "Upgrade"), ("Upgrade", "a, h2c")]).is_none());
        assert!(asked(&[("Connection", "Upgrade"), ("Upgrade", "a"), ("Upgrade", "b")]).is_none());
    }
}
