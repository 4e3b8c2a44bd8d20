//! What builds inherit of the operator's own settings: proxies, package indexes, certificates.

use std::collections::BTreeMap;
use std::path::PathBuf;

use insula_agent::BuildSettings;

/// Variables that package managers and their TLS read. Nothing else of our environment is passed.
const INHERITED: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_CERT",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "npm_config_registry",
    "npm_config_cafile",
    "NPM_CONFIG_REGISTRY",
    "NPM_CONFIG_CAFILE",
];

/// What every sandbox shows of the host anyway.
const SHOWN: &[&str] = &["/usr", "/etc/ssl/certs"];

/// Files with such settings on the host, shown to builds if they are there.
const FILES: &[&str] = &["/etc/pip.conf", "/etc/npmrc"];

pub fn settings(environment: impl Iterator<Item = (String, String)>) -> BuildSettings {
    let env: BTreeMap<String, String> =
        environment.filter(|(name, _)| INHERITED.contains(&name.as_str())).collect();
    let named = env.values().filter(|value| value.starts_with('/')).map(PathBuf::from);
    let files = FILES.iter().map(PathBuf::from);
    let read_only = named
        .chain(files)
        .filter(|path| path.exists() && !SHOWN.iter().any(|shown| path.starts_with(shown)))
        .collect();
    BuildSettings { env, read_only }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_what_package_managers_need_is_passed() {
        let given =
            [("HTTPS_PROXY", "http://proxy:3128"), ("AWS_SECRET_ACCESS_KEY", "s"), ("HOME", "/")];
        let settings = settings(given.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(settings.env.keys().collect::<Vec<_>>(), ["HTTPS_PROXY"]);
    }
}
