//! What an instance sees of its environment variables, and the command that it runs as.
//!
//! Pure. Precedence, weakest first: defaults that frameworks like, the release's variables, its
//! secrets, and what the platform alone may say (`PORT`, `INSULA_*`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use insula_kit::seal::SecretBytes;
use insula_model::VariableName;
use insula_model::spec::Runtime;
use insula_model::target::{Command, InstanceTarget};
use insula_sandbox::{APP_DIR, BIN_DIR};

/// Where our own binary is shown to instances that serve files.
pub const PROGRAM_DIR: &str = "/.insula/insula";
const SHELL: &str = "/bin/sh";
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// The environment, and which secrets are named by the release but have no value any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Environment {
    pub variables: BTreeMap<String, String>,
    pub missing: Vec<VariableName>,
}

pub fn environment(
    target: &InstanceTarget,
    port: Option<u16>,
    secrets: &BTreeMap<VariableName, SecretBytes>,
) -> Environment {
    let mut variables = defaults(target.runtime, &target.root);
    for (name, value) in &target.variables {
        variables.insert(name.to_string(), value.clone());
    }
    let mut missing = Vec::new();
    for name in &target.secrets {
        match secrets.get(name) {
            Some(value) => {
                // Values were text when the API took them.
                let text = String::from_utf8_lossy(value.expose()).into_owned();
                variables.insert(name.to_string(), text);
            }
            None => missing.push(name.clone()),
        }
    }
    let place = &target.place;
    let ours = [
        ("ORG", place.org_name.to_string()),
        ("PROJECT", place.project_name.to_string()),
        ("ENVIRONMENT", place.environment_name.to_string()),
        ("APP", place.app_name.to_string()),
        ("COMPONENT", target.component.to_string()),
        ("RELEASE", target.release_number.to_string()),
        ("DEPLOYMENT", target.deployment.to_string()),
        ("INSTANCE", target.id.to_string()),
    ];
    for (name, value) in ours {
        variables.insert(format!("INSULA_{name}"), value);
    }
    if let Some(port) = port {
        variables.insert("PORT".into(), port.to_string());
    }
    Environment { variables, missing }
}

/// What a build and an instance of a runtime have in common.
pub fn defaults(runtime: Runtime, root: &str) -> BTreeMap<String, String> {
    let mut folders = Vec::new();
    let mut tops = vec![app_dir(root).display().to_string()];
    if !root.is_empty() {
        tops.push(APP_DIR.to_owned());
    }
    let (python, node) = match runtime {
        Runtime::Python => (true, false),
        Runtime::Node => (false, true),
        // A Procfile's command may be of either kind.
        Runtime::Host => (true, true),
        Runtime::Files => (false, false),
    };
    for top in &tops {
        if python {
            folders.push(format!("{top}/.venv/bin"));
        }
        if node {
            folders.push(format!("{top}/node_modules/.bin"));
        }
    }
    folders.push(BIN_DIR.to_owned());
    folders.push(SYSTEM_PATH.to_owned());
    let mut variables = BTreeMap::from([
        ("HOME".to_owned(), APP_DIR.to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("PATH".to_owned(), folders.join(":")),
    ]);
    if python {
        // Otherwise a crash takes the last lines, the interesting ones, with it.
        variables.insert("PYTHONUNBUFFERED".into(), "1".into());
    }
    if node {
        variables.insert("NODE_ENV".into(), "production".into());
    }
    variables
}

/// `root` below `/app`. It was checked when the spec was read; what is checked here again is that
/// it cannot lead out.
pub fn app_dir(root: &str) -> PathBuf {
    let mut path = PathBuf::from(APP_DIR);
    path.extend(root.split('/').filter(|part| !matches!(*part, "" | "." | "..")));
    path
}

pub fn argv(target: &InstanceTarget, port: Option<u16>) -> Vec<String> {
    match &target.command {
        Command::Shell { line } => vec![SHELL.into(), "-c".into(), line.clone()],
        Command::Exec { argv } => argv.clone(),
        Command::Serve => {
            let root = app_dir(&target.root).display().to_string();
            let mut argv = vec![PROGRAM_DIR.into(), "static-server".into(), "--root".into(), root];
            if let Some(port) = port {
                argv.extend(["--port".into(), port.to_string()]);
            }
            argv
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::sample;
    use super::*;

    fn check(target: &InstanceTarget, port: Option<u16>, expected: &Expect) {
        let secret = SecretBytes::new(b"hunter2".to_vec());
        let secrets = BTreeMap::from([("API_KEY".parse().expect("a name"), secret)]);
        let Environment { variables, missing } = environment(target, port, &secrets);
        let mut out = String::new();
        for (name, value) in variables {
            out += &format!("{name}={value}\n");
        }
        out += &format!("missing {missing:?}\nruns {:?}\n", argv(target, port));
        expected.assert_eq(&out);
    }

    #[test]
    fn a_python_service_sees_what_it_expects_and_only_we_say_who_it_is() {
        let mut target = sample();
        target.root = "api".into();
        for (name, value) in
            [("LANG", "de_DE.UTF-8"), ("PORT", "1"), ("INSULA_ORG", "victim"), ("API_KEY", "old")]
        {
            target.variables.insert(name.parse().expect("a name"), value.into());
        }
        target.secrets = ["API_KEY", "GONE"].map(|name| name.parse().expect("a name")).into();
        check(
            &target,
            Some(8080),
            &expect![[r#"
            API_KEY=hunter2
            HOME=/app
            INSULA_APP=shop
            INSULA_COMPONENT=web
            INSULA_DEPLOYMENT=dep_01hf7yat00e40r2081040g2081
            INSULA_ENVIRONMENT=production
            INSULA_INSTANCE=ins_01hf7yat00e40r2081040g2081
            INSULA_ORG=acme
            INSULA_PROJECT=default
            INSULA_RELEASE=v3
            LANG=de_DE.UTF-8
            PATH=/app/api/.venv/bin:/app/.venv/bin:/.insula/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
            PORT=8080
            PYTHONUNBUFFERED=1
            missing [VariableName("GONE")]
            runs ["/bin/sh", "-c", "python3 app.py"]
        "#]],
        );
    }

    #[test]
    fn files_are_served_by_us_and_node_finds_its_own_programs() {
        let mut target = sample();
        (target.runtime, target.command) = (Runtime::Files, Command::Serve);
        target.root = "public/../../etc".into();
        check(
            &target,
            Some(8080),
            &expect![[r#"
            HOME=/app
            INSULA_APP=shop
            INSULA_COMPONENT=web
            INSULA_DEPLOYMENT=dep_01hf7yat00e40r2081040g2081
            INSULA_ENVIRONMENT=production
            INSULA_INSTANCE=ins_01hf7yat00e40r2081040g2081
            INSULA_ORG=acme
            INSULA_PROJECT=default
            INSULA_RELEASE=v3
            LANG=C.UTF-8
            PATH=/.insula/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
            PORT=8080
            missing []
            runs ["/.insula/insula", "static-server", "--root", "/app/public/etc", "--port", "8080"]
        "#]],
        );
        (target.runtime, target.root) = (Runtime::Node, String::new());
        target.command = Command::Exec { argv: vec!["node".into(), "$(id)".into()] };
        let seen = environment(&target, None, &BTreeMap::new()).variables;
        assert_eq!(seen["NODE_ENV"], "production");
        assert!(seen["PATH"].starts_with("/app/node_modules/.bin:"));
        assert!(!seen.contains_key("PORT"));
        assert_eq!(argv(&target, None), ["node", "$(id)"]);
    }
}
