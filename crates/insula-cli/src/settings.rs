//! Which server, with which token, and which org, project, environment and app. Pure.
//!
//! Flags and their variables come first, then the folder's project file, then what `login` and
//! `up` left, then defaults. One rule is about safety and not about order: a project file comes
//! with somebody's repository, so the server it names gets a token only if one has signed in there
//! before.

use insula_wire::rest::page::Hidden;

use crate::Global;
use crate::client::Server;
use crate::credentials::{Operator, Saved, SignIn};
use crate::failure::{Exit, Failure};
use crate::project_file::ProjectFile;

const ORG_DEFAULT: &str = "default";
const PROJECT_DEFAULT: &str = "default";
const ENVIRONMENT_DEFAULT: &str = "production";

#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    pub global: &'a Global,
    pub project: &'a ProjectFile,
    pub saved: &'a Saved,
    pub operator: Option<&'a Operator>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub server: Server,
    pub token: Option<Hidden>,
    pub place: Place,
}

/// Where apps are looked for, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub org: String,
    pub project: String,
    pub env: String,
    /// If somebody named one.
    pub app: Option<String>,
}

pub fn settle(sources: Sources<'_>) -> Result<Settings, Failure> {
    let server = server(sources)?;
    let (token, sign_in) = credential(sources, &server);
    let org = sign_in.and_then(SignIn::only_org);
    Ok(Settings { server, token, place: place(sources.global, sources.project, org) })
}

/// `org` is the one that the credential is for, if it is for one alone.
pub fn place(global: &Global, project: &ProjectFile, org: Option<&str>) -> Place {
    let or = |flag: &Option<String>, file: &Option<String>, default: &str| {
        given(flag).or(given(file)).unwrap_or(default).to_owned()
    };
    Place {
        org: or(&global.org, &project.org, org.unwrap_or(ORG_DEFAULT)),
        project: or(&global.project, &project.project, PROJECT_DEFAULT),
        env: or(&global.env, &project.env, ENVIRONMENT_DEFAULT),
        app: given(&global.app).or(given(&project.app)).map(str::to_owned),
    }
}

/// A variable that is set to nothing is not set.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn server(sources: Sources<'_>) -> Result<Server, Failure> {
    if let Some(server) = given(&sources.global.server) {
        return Ok(server.parse()?);
    }
    let operator = sources.operator.map(|operator| operator.server.parse::<Server>());
    // Who names the data folder of an installation means that one.
    if let (Some(server), true) = (&operator, sources.global.data.is_some()) {
        return Ok(server.clone()?);
    }
    if let Some(text) = given(&sources.project.server) {
        let server: Server = text.parse()?;
        if knows(sources, &server) {
            return Ok(server);
        }
        return Err(Failure::new(
            Exit::NOT_SIGNED_IN,
            format!("this folder's project file names {server}, where you have not signed in"),
        )
        .hint(format!("if you trust it: insula login --server {server}")));
    }
    if let Some(current) = &sources.saved.current {
        return Ok(current.parse()?);
    }
    Ok(operator.transpose()?.unwrap_or_else(Server::local))
}

/// The same without the rule: where one is about to sign in, or out.
pub fn server_to_sign_in(sources: Sources<'_>) -> Result<Server, Failure> {
    if given(&sources.global.server).is_none()
        && sources.global.data.is_none()
        && let Some(server) = given(&sources.project.server)
    {
        return Ok(server.parse()?);
    }
    server(sources)
}

fn knows(sources: Sources<'_>, server: &Server) -> bool {
    sources.saved.of(server).is_some() || operator_of(sources, server).is_some()
}

fn operator_of<'a>(sources: Sources<'a>, server: &Server) -> Option<&'a Operator> {
    sources.operator.filter(|operator| operator.server.parse::<Server>().as_ref() == Ok(server))
}

/// The token, and the sign-in that it is from, if it is from one.
fn credential<'a>(sources: Sources<'a>, server: &Server) -> (Option<Hidden>, Option<&'a SignIn>) {
    if let Some(token) = given(&sources.global.token) {
        return (Some(Hidden(token.to_owned())), None);
    }
    let operator = operator_of(sources, server).map(|operator| operator.token.clone());
    match sources.saved.of(server) {
        Some(sign_in) if operator.is_none() || sources.global.data.is_none() => {
            (Some(sign_in.token.clone()), Some(sign_in))
        }
        Some(_) | None => (operator, None),
    }
}

/// What to tell who is in several orgs, has named none, and is not in the usual one.
pub fn which_org(sources: Sources<'_>) -> Option<String> {
    if given(&sources.global.org).or(given(&sources.project.org)).is_some() {
        return None;
    }
    let server = server(sources).ok()?;
    let (_, sign_in) = credential(sources, &server);
    orgs_hint(&sign_in?.orgs)
}

/// The same for the orgs of a sign-in.
pub fn orgs_hint(orgs: &[String]) -> Option<String> {
    let usual = orgs.iter().any(|org| org == ORG_DEFAULT);
    (orgs.len() > 1 && !usual).then(|| {
        format!(
            "you are in {}: give --org NAME, or write it down: insula init --org NAME",
            orgs.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        global: Global,
        project: ProjectFile,
        saved: Saved,
        operator: Option<Operator>,
    }

    fn nothing() -> World {
        World {
            global: Global::default(),
            project: ProjectFile::default(),
            saved: Saved::default(),
            operator: None,
        }
    }

    impl World {
        fn signed_in(mut self, server: &str, token: &str) -> Self {
            let sign_in = SignIn {
                token: Hidden(token.into()),
                email: None,
                expires: None,
                orgs: Vec::new(),
            };
            self.saved.add(&server.parse().unwrap(), sign_in);
            self
        }

        fn in_orgs(mut self, orgs: &[&str]) -> Self {
            for sign_in in self.saved.servers.values_mut() {
                sign_in.orgs = orgs.iter().map(|org| (*org).to_owned()).collect();
            }
            self
        }

        fn org(&self) -> String {
            self.settle().unwrap().place.org
        }

        fn which_org(&self) -> Option<String> {
            let World { global, project, saved, operator } = self;
            which_org(Sources { global, project, saved, operator: operator.as_ref() })
        }

        fn operator(mut self, server: &str, token: &str) -> Self {
            self.operator = Some(Operator { server: server.into(), token: Hidden(token.into()) });
            self
        }

        fn settle(&self) -> Result<Settings, Failure> {
            let World { global, project, saved, operator } = self;
            settle(Sources { global, project, saved, operator: operator.as_ref() })
        }

        fn told(&self) -> String {
            match self.settle() {
                Ok(settings) => {
                    let token = settings.token.map_or("nothing".into(), |token| token.0);
                    format!("{token} to {}", settings.server)
                }
                Err(failure) => format!("exit {}", failure.exit.0),
            }
        }
    }

    #[test]
    fn a_fresh_machine_asks_its_own_server() {
        assert_eq!(nothing().told(), "nothing to http://127.0.0.1:7070");
        let up = nothing().operator("http://127.0.0.1:7171", "op");
        assert_eq!(up.told(), "op to http://127.0.0.1:7171");
    }

    #[test]
    fn a_flag_counts_more_than_a_sign_in_and_a_sign_in_more_than_the_operator() {
        let mut world =
            nothing().signed_in("https://a.example", "a").operator("http://127.0.0.1:1", "op");
        assert_eq!(world.told(), "a to https://a.example");
        world.global.token = Some("flag".into());
        assert_eq!(world.told(), "flag to https://a.example");
        world.global.server = Some("https://b.example".into());
        assert_eq!(world.told(), "flag to https://b.example");
        world.global.token = Some(String::new());
        assert_eq!(world.told(), "nothing to https://b.example", "a's token stays with a");
    }

    #[test]
    fn a_data_folder_that_was_asked_for_counts_more_than_a_sign_in() {
        let mut world =
            nothing().signed_in("http://127.0.0.1:1", "mine").operator("http://127.0.0.1:1", "op");
        assert_eq!(world.told(), "mine to http://127.0.0.1:1");
        world = world.signed_in("https://a.example", "a");
        world.global.data = Some("/data".into());
        assert_eq!(world.told(), "op to http://127.0.0.1:1");
        world.project.server = Some("https://a.example".into());
        assert_eq!(world.told(), "op to http://127.0.0.1:1");
    }

    #[test]
    fn a_project_file_cannot_collect_tokens() {
        let mut world = nothing().signed_in("https://a.example", "a");
        world.project.server = Some("https://evil.example".into());
        assert_eq!(world.told(), "exit 3");
        world.global.token = Some("from CI".into());
        assert_eq!(world.told(), "exit 3", "a token from a variable is not sent there, either");
        world.project.server = Some("https://a.example".into());
        world.global.token = None;
        assert_eq!(world.told(), "a to https://a.example");
    }

    #[test]
    fn who_is_in_one_org_means_that_one() {
        let mut world = nothing().signed_in("https://a.example", "a").in_orgs(&["beta"]);
        assert_eq!(world.org(), "beta");
        world.project.org = Some("folder".into());
        assert_eq!(world.org(), "folder");
        world.global.org = Some("flag".into());
        assert_eq!(world.org(), "flag");
    }

    #[test]
    fn an_org_of_one_credential_is_not_taken_for_anothers() {
        let mut world = nothing()
            .signed_in("http://127.0.0.1:1", "a")
            .in_orgs(&["beta"])
            .operator("http://127.0.0.1:1", "op");
        assert_eq!((world.told(), world.org()), ("a to http://127.0.0.1:1".into(), "beta".into()));
        world.global.data = Some("/data".into());
        assert_eq!(world.org(), "default", "the operator's credential is used");
        world.global.data = None;
        world.global.token = Some("from CI".into());
        assert_eq!(world.org(), "default", "nobody knows the orgs of that token");
    }

    #[test]
    fn who_is_in_several_orgs_is_told_to_name_one() {
        let mut world = nothing().signed_in("https://a.example", "a").in_orgs(&["beta", "gamma"]);
        assert_eq!(world.org(), "default");
        let told = world.which_org().unwrap();
        assert!(told.starts_with("you are in beta, gamma: give --org NAME"), "{told}");
        world.global.org = Some("beta".into());
        assert_eq!(world.which_org(), None, "one was named");
        world.global.org = None;
        let world = world.in_orgs(&["beta", "default"]);
        assert_eq!((world.org(), world.which_org()), ("default".into(), None));
    }

    #[test]
    fn names_come_from_flags_then_from_the_folder_then_from_habit() {
        let global =
            Global { env: Some("staging".into()), app: Some(String::new()), ..Global::default() };
        let project = ProjectFile {
            env: Some("x".into()),
            org: Some("acme".into()),
            app: Some("shop".into()),
            ..ProjectFile::default()
        };
        let place = place(&global, &project, Some("only"));
        let told = [&place.org, &place.project, &place.env];
        assert_eq!(told, ["acme", "default", "staging"]);
        assert_eq!(place.app.as_deref(), Some("shop"));
    }
}
