//! What a client has already, and which part it wants (RFC 9110 §13 and §14). Pure.

use http::header::{
    ACCEPT_ENCODING, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE,
};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// From this byte on, so many.
    Range(u64, u64),
    Unsatisfiable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Brotli,
    Gzip,
}

/// Whether the client's copy is this one. Dates must be the same, not merely as late: a release
/// that was rolled back to has older files, and they are the new ones.
pub(crate) fn unchanged(request: &HeaderMap, tag: &str, modified: &str) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let mut tags = texts(request, IF_NONE_MATCH).flat_map(|text| text.split(','));
        return tags.any(|given| {
            let given = given.trim();
            given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag
        });
    }
    texts(request, IF_MODIFIED_SINCE).next() == Some(modified)
}

/// One range; several, or what cannot be read, are answered with the whole, as is allowed.
pub(crate) fn part(request: &HeaderMap, len: u64, tag: &str, modified: &str) -> Part {
    let mut ranges = texts(request, RANGE);
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Part::Whole };
    if let Some(condition) = texts(request, IF_RANGE).next()
        && condition != tag
        && condition != modified
    {
        return Part::Whole;
    }
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Part::Whole;
    };
    let number = |text: &str| match text {
        "" => Some(None),
        _ if !text.bytes().all(|byte| byte.is_ascii_digit()) => None,
        // Too large for a number is beyond the end of any file.
        _ => Some(Some(text.parse().unwrap_or(u64::MAX))),
    };
    match (number(first), number(last)) {
        (Some(Some(first)), Some(last)) => {
            if last.is_some_and(|last: u64| last < first) {
                return Part::Whole;
            }
            if first >= len {
                return Part::Unsatisfiable;
            }
            let last = last.unwrap_or(u64::MAX).min(len - 1);
            Part::Range(first, last - first + 1)
        }
        (Some(None), Some(Some(suffix))) => {
            let suffix = suffix.min(len);
            if suffix == 0 { Part::Unsatisfiable } else { Part::Range(len - suffix, suffix) }
        }
        (Some(None), Some(None)) | (None, _) | (_, None) => Part::Whole,
    }
}

/// What the client takes of what may lie beside a file, the smaller first.
pub(crate) fn codings(request: &HeaderMap) -> impl Iterator<Item = Coding> {
    let accepts = |coding: &str| {
        texts(request, ACCEPT_ENCODING).flat_map(|text| text.split(',')).any(|given| {
            let (name, weight) = given.split_once(';').unwrap_or((given, ""));
            let refused = weight
                .trim()
                .strip_prefix("q=")
                .is_some_and(|weight| weight.trim_end_matches(['0', '.']).is_empty());
            name.trim().eq_ignore_ascii_case(coding) && !refused
        })
    };
    let brotli = accepts("br").then_some(Coding::Brotli);
    let gzip = accepts("gzip").then_some(Coding::Gzip);
    brotli.into_iter().chain(gzip)
}

impl Coding {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
        }
    }
}

fn texts(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: &str = "Fri, 20 Nov 2026 12:00:00 GMT";

    fn headers(given: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_tag_counts_more_than_a_date() {
        let same = |given: &[(&str, &str)]| unchanged(&headers(given), "\"a\"", DAY);
        assert!(same(&[("if-none-match", "\"b\", W/\"a\"")]));
        assert!(same(&[("if-none-match", "*")]));
        assert!(same(&[("if-modified-since", DAY)]));
        assert!(!same(&[("if-none-match", "\"b\""), ("if-modified-since", DAY)]));
        assert!(!same(&[("if-modified-since", "Sat, 21 Nov 2026 12:00:00 GMT")]));
        assert!(!same(&[]));
    }

    #[test]
    fn ranges_are_cut_to_the_file_and_odd_ones_are_the_whole() {
        let of = |range: &str| part(&headers(&[("range", range)]), 10, "\"a\"", DAY);
        assert_eq!(of("bytes=0-3"), Part::Range(0, 4));
        assert_eq!(of("bytes=4-"), Part::Range(4, 6));
        assert_eq!(of("bytes=4-99999999999999999999"), Part::Range(4, 6));
        assert_eq!(of("bytes=-3"), Part::Range(7, 3));
        assert_eq!(of("bytes=-30"), Part::Range(0, 10));
        assert_eq!(of("bytes=10-"), Part::Unsatisfiable);
        assert_eq!(of("bytes=99999999999999999999-"), Part::Unsatisfiable);
        assert_eq!(of("bytes=-0"), Part::Unsatisfiable);
        for odd in ["bytes=3-1", "bytes=0-1,3-4", "bytes=a-b", "bytes=-", "lines=0-1", "bytes=+1-2"]
        {
            assert_eq!(of(odd), Part::Whole, "{odd}");
        }
        let when = |condition| {
            part(&headers(&[("range", "bytes=0-0"), ("if-range", condition)]), 10, "\"a\"", DAY)
        };
        assert_eq!(when("\"a\""), Part::Range(0, 1));
        assert_eq!(when(DAY), Part::Range(0, 1));
        assert_eq!(when("\"b\""), Part::Whole);
    }

    #[test]
    fn a_coding_with_weight_nought_is_not_taken() {
        let of = |given| codings(&headers(&[("accept-encoding", given)])).collect::<Vec<_>>();
        assert_eq!(of("gzip, deflate, br;q=0.5"), [Coding::Brotli, Coding::Gzip]);
        assert_eq!(of("gzip;q=0, br;q=0.0"), []);
        assert_eq!(of("identity"), []);
    }
}
