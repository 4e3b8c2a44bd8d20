//! What the gateway says itself, when no app can: a small page, or a problem document for
//! programs. Names nothing of the inside; the request id leads the operator to the rest.

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use insula_kit::trace::RequestId;

use crate::body::ResponseBody;
use crate::strict::Refusal;

/// Long enough for an instance to start, short enough for a person to wait.
const RETRY_AFTER_SECONDS: u16 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Malformed(&'static str),
    MethodRefused,
    HeadTooLarge,
    BodyTooLarge,
    Version,
    TooSlow,
    NoSuchHost,
    NoSuchPath,
    NothingReady,
    NoAnswer,
    BadAnswer,
    AnswerTooSlow,
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(why) => Self::Malformed(why),
            Refusal::HeadTooLarge => Self::HeadTooLarge,
            Refusal::Version => Self::Version,
            Refusal::TooSlow => Self::TooSlow,
        }
    }
}

impl Trouble {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoSuchHost | Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::NothingReady => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoAnswer | Self::BadAnswer => StatusCode::BAD_GATEWAY,
            Self::AnswerTooSlow => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_request",
            Self::MethodRefused => "method_refused",
            Self::HeadTooLarge => "headers_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::Version => "version_not_supported",
            Self::TooSlow => "request_too_slow",
            Self::NoSuchHost => "unknown_host",
            Self::NoSuchPath => "unknown_path",
            Self::NothingReady => "nothing_ready",
            Self::NoAnswer => "no_answer",
            Self::BadAnswer => "bad_answer",
            Self::AnswerTooSlow => "answer_too_slow",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Malformed(_) => "This request cannot be understood",
            Self::MethodRefused => "This method is not served",
            Self::HeadTooLarge => "The headers of this request are too large",
            Self::BodyTooLarge => "This request is too large",
            Self::Version => "This version of HTTP is not served",
            Self::TooSlow => "The request took too long to arrive",
            Self::NoSuchHost => "There is nothing at this address",
            Self::NoSuchPath => "There is nothing at this path",
            Self::NothingReady => "This app is not ready",
            Self::NoAnswer => "This app does not answer",
            Self::BadAnswer => "This app gave no proper answer",
            Self::AnswerTooSlow => "This app took too long to answer",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Malformed(why) => why,
            Self::MethodRefused => "CONNECT and TRACE are not for apps.",
            Self::HeadTooLarge => "Deleting the cookies of this site often helps.",
            Self::BodyTooLarge => "Send less, or in pieces.",
            Self::Version => "Use HTTP/1.1 or HTTP/2.",
            Self::TooSlow => "Check the connection and try again.",
            Self::NoSuchHost => "No app answers to this name. Check the spelling.",
            Self::NoSuchPath => "An app lives here, but no part of it serves this path.",
            Self::NothingReady => "None of its instances is ready at the moment. Try again soon.",
            Self::NoAnswer => "Its instances refuse connections or hang up. Try again soon.",
            Self::BadAnswer => "What it sent back is not an HTTP response.",
            Self::AnswerTooSlow => "The request may still be at work. Think before repeating it.",
        }
    }
}

/// The whole answer. `request` is the visitor's headers: who asks for JSON gets a problem document.
pub(crate) fn answer(
    trouble: Trouble,
    id: &RequestId,
    request: &HeaderMap,
) -> Response<ResponseBody> {
    let (kind, text) = if wants_json(request) {
        ("application/problem+json", problem(trouble, id))
    } else {
        ("text/html; charset=utf-8", html(trouble, id))
    };
    let mut response = Response::new(ResponseBody::page(text));
    *response.status_mut() = trouble.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if trouble.status() == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    }
    response
}

fn wants_json(request: &HeaderMap) -> bool {
    let accepts = request.get_all(ACCEPT);
    let mut kinds = accepts.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    // The first one that we have: browsers begin with HTML, programs with JSON.
    kinds.find_map(|kind| match kind.split(';').next().map(str::trim) {
        Some("application/json" | "application/problem+json") => Some(true),
        Some("text/html") => Some(false),
        Some(_) | None => None,
    }) == Some(true)
}

fn problem(trouble: Trouble, id: &RequestId) -> String {
    let document = serde_json::json!({
        "type": "about:blank",
        "status": trouble.status().as_u16(),
        "code": trouble.code(),
        "title": trouble.title(),
        "detail": trouble.sentence(),
        "request_id": id.as_str(),
    });
    format!("{document}\n")
}

/// Every text in it is ours or, like the id, of a checked alphabet: nothing to escape.
fn html(trouble: Trouble, id: &RequestId) -> String {
    let (title, sentence) = (trouble.title(), trouble.sentence());
    let status = trouble.status().as_u16();
    format!(
        "<!doctype html>\n\
<html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
<meta name=\"robots\" content=\"noindex\"><title>{title}</title>\n\
<style>:root{{color-scheme:light dark}}\
body{{margin:0;min-height:100vh;display:grid;place-items:center;\
font:16px/1.5 system-ui,sans-serif;background:#f6f7f4;color:#1f2a2e}}\
main{{max-width:32rem;padding:2rem}}b{{font-size:.9rem;letter-spacing:.1em;color:#2f7d6d}}\
h1{{margin:.2em 0;font-size:1.6rem;line-height:1.2}}\
small{{opacity:.65;font-family:ui-monospace,monospace;overflow-wrap:anywhere}}\
@media(prefers-color-scheme:dark){{body{{background:#12181a;color:#e4e9e6}}b{{color:#6cc3b0}}}}\
</style></head>\n\
<body><main><b>{status}</b><h1>{title}</h1><p>{sentence}</p>\
<small>Request {id}</small></main></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_json_and_browsers_html() {
        let asked = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            wants_json(&headers)
        };
        assert!(asked("application/json"));
        assert!(asked("application/problem+json; q=0.9, */*"));
        assert!(!asked("text/html,application/xhtml+xml,application/json"));
        assert!(!asked("*/*"));
        assert!(!wants_json(&HeaderMap::new()));
    }

    #[test]
    fn a_page_says_what_happened_and_which_request_it_was() {
        let id: RequestId = "req_1".parse().unwrap();
        let page = html(Trouble::NothingReady, &id);
        assert!(page.contains("<b>503</b>") && page.contains("Request req_1"), "{page}");
        let problem: serde_json::Value =
            serde_json::from_str(&problem(Trouble::NoSuchHost, &id)).unwrap();
        assert_eq!(problem["code"], "unknown_host");
        assert_eq!(problem["request_id"], "req_1");
    }
}
