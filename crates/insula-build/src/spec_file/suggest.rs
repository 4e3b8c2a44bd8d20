//! "Did you mean …?" for keys that do not exist.

/// Words that other platforms use for what has another name here.
const SYNONYMS: &[(&str, &str)] = &[
    ("cmd", "run"),
    ("command", "run"),
    ("start", "run"),
    ("run_command", "run"),
    ("env", "variables"),
    ("envs", "variables"),
    ("environment", "variables"),
    ("vars", "variables"),
    ("replicas", "instances"),
    ("instance_count", "instances"),
    ("count", "instances"),
    ("scale", "instances"),
    ("mem", "memory"),
    ("ram", "memory"),
    ("cpus", "cpu"),
    ("cores", "cpu"),
    ("type", "kind"),
    ("dir", "root"),
    ("directory", "root"),
    ("source_dir", "root"),
    ("working_dir", "root"),
    ("output", "root"),
    ("output_dir", "root"),
    ("publish", "root"),
    ("path", "routes"),
    ("route", "routes"),
    ("http_port", "port"),
    ("internal_port", "port"),
    ("ports", "port"),
    ("healthcheck", "health"),
    ("health_check", "health"),
    ("readiness", "health"),
    ("service", "components"),
    ("services", "components"),
    ("processes", "components"),
    ("name", "app"),
    ("version", "schema"),
    ("storage", "disk"),
    ("timeout_stop", "stop"),
    ("kill_signal", "signal"),
    ("kill_timeout", "grace"),
    ("strip", "preserve"),
    ("preserve_path_prefix", "preserve"),
    ("threshold", "failures"),
    ("retries", "failures"),
];
/// Longer keys are no slip of the finger, and comparing them would cost.
const KEY_LEN_MAX: usize = 40;
/// Two slips; with three, anything resembles anything.
const DISTANCE_MAX: usize = 2;

pub fn suggest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    if given.len() > KEY_LEN_MAX {
        return None;
    }
    let given = given.to_lowercase().replace('-', "_");
    let by_name = |name: &str| known.iter().copied().find(|key| *key == name);
    by_name(&given)
        .or_else(|| {
            let synonyms = SYNONYMS.iter().filter(|(theirs, _)| *theirs == given);
            synonyms.filter_map(|(_, ours)| by_name(ours)).next()
        })
        .or_else(|| {
            let close = known.iter().map(|key| (distance(&given, key), *key));
            let near = |(distance, key): &(usize, &str)| {
                *distance <= DISTANCE_MAX && *distance < key.chars().count()
            };
            close.filter(near).min().map(|(_, key)| key)
        })
}

/// How many letters must be put in, left out, changed or swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut least =
                (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_words_of_others_lead_to_ours() {
        let known = ["run", "port", "memory", "instances", "variables", "routes"];
        for (given, meant) in [
            ("memroy", Some("memory")),
            ("Memory", Some("memory")),
            ("prot", Some("port")),
            ("command", Some("run")),
            ("replicas", Some("instances")),
            ("env", Some("variables")),
            ("instance", Some("instances")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(suggest(given, &known), meant, "{given}");
        }
        assert_eq!(suggest(&"x".repeat(100_000), &known), None);
    }
}
