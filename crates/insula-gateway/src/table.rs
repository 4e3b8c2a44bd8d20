//! Routes, compiled for one lookup per request. Pure; generic over what stands behind a route.

use std::collections::HashMap;
use std::rc::Rc;

/// Hosts to their paths, the longest prefix first.
#[derive(Debug)]
pub(crate) struct Table<T> {
    hosts: HashMap<Box<str>, Vec<Prefix<T>>>,
}

#[derive(Debug)]
struct Prefix<T> {
    /// Without a final slash: `/` is the empty text.
    path: Box<str>,
    target: Rc<T>,
}

#[derive(Debug)]
pub(crate) enum Found<'t, T> {
    /// The target, and how many bytes of the path its prefix has.
    Route(&'t Rc<T>, usize),
    NoSuchPath,
    NoSuchHost,
}

impl<T> Table<T> {
    pub(crate) fn empty() -> Self {
        Self { hosts: HashMap::new() }
    }

    pub(crate) fn compile<'a>(routes: impl IntoIterator<Item = (&'a str, &'a str, Rc<T>)>) -> Self {
        let mut hosts: HashMap<Box<str>, Vec<Prefix<T>>> = HashMap::new();
        for (host, path, target) in routes {
            let path = path.trim_end_matches('/').into();
            hosts.entry(host.into()).or_default().push(Prefix { path, target });
        }
        for prefixes in hosts.values_mut() {
            prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.path.len()));
        }
        Self { hosts }
    }

    pub(crate) fn find(&self, host: &str, path: &str) -> Found<'_, T> {
        let Some(prefixes) = self.hosts.get(host) else { return Found::NoSuchHost };
        for prefix in prefixes {
            if let Some(rest) = path.strip_prefix(&*prefix.path)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                return Found::Route(&prefix.target, prefix.path.len());
            }
        }
        Found::NoSuchPath
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: &Table<u32>, host: &str, path: &str) -> String {
        match table.find(host, path) {
            Found::Route(target, len) => format!("{target} after {:?}", &path[..len]),
            Found::NoSuchPath => "no such path".into(),
            Found::NoSuchHost => "no such host".into(),
        }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let routes = [("a", "/", 1), ("a", "/api", 2), ("a", "/api/v1/", 3), ("b", "/only", 4)];
        let table = Table::compile(routes.map(|(host, path, n)| (host, path, Rc::new(n))));
        assert_eq!(found(&table, "a", "/"), "1 after \"\"");
        assert_eq!(found(&table, "a", "/apiary"), "1 after \"\"");
        assert_eq!(found(&table, "a", "/api"), "2 after \"/api\"");
        assert_eq!(found(&table, "a", "/api/"), "2 after \"/api\"");
        assert_eq!(found(&table, "a", "/api/v1"), "3 after \"/api/v1\"");
        assert_eq!(found(&table, "a", "/api/v10"), "2 after \"/api\"");
        assert_eq!(found(&table, "a", "/API"), "1 after \"\"");
        assert_eq!(found(&table, "b", "/"), "no such path");
        assert_eq!(found(&table, "c", "/"), "no such host");
    }
}
