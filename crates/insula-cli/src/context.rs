//! What a command works with: the client, the terminal, and the place it is about.

use std::path::PathBuf;

use insula_model::AppName;
use insula_wire::rest::app::App;

use crate::Global;
use crate::app_name;
use crate::client::{Client, Target};
use crate::credentials::{self, Saved};
use crate::failure::Failure;
use crate::place;
use crate::project_file::{self, ProjectFile};
use crate::settings::{self, Place, Settings, Sources};
use crate::show::Terminal;

/// Names shown in a hint.
const HINT_APPS_MAX: usize = 10;
/// What ids of apps begin with; a name has no underscore.
const APP_ID_PREFIX: &str = "app_";

#[derive(Debug)]
pub struct Cx {
    pub global: Global,
    pub terminal: Terminal,
    pub place: Place,
    signed_in: bool,
    client: Client,
}

/// Whether a command may take the only app there is for the one that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    /// It only looks.
    Harmless,
    /// It changes something: the app is named, or the folder's.
    No,
}

/// What lies on this machine that says where to go.
#[derive(Debug)]
pub struct Local {
    pub project: ProjectFile,
    pub saved: Saved,
    pub operator: Option<credentials::Operator>,
    pub config: Option<PathBuf>,
}

impl Local {
    pub fn read(global: &Global, folder: &std::path::Path) -> Result<Self, Failure> {
        let config = place::config_folder();
        let saved = credentials::load(config.as_deref())?;
        let data = global.data.clone().or_else(|| place::default_data_folder().ok());
        let operator = match data {
            Some(data) => credentials::operator(&data, global.data.is_some())?,
            None => None,
        };
        Ok(Self {
            project: project_file::find(folder)?.unwrap_or_default(),
            saved,
            operator,
            config,
        })
    }

    pub fn sources<'a>(&'a self, global: &'a Global) -> Sources<'a> {
        Sources {
            global,
            project: &self.project,
            saved: &self.saved,
            operator: self.operator.as_ref(),
        }
    }
}

impl Cx {
    /// For a command about `folder`.
    pub fn new(
        global: Global,
        terminal: Terminal,
        folder: &std::path::Path,
    ) -> Result<Self, Failure> {
        let folder = std::path::absolute(folder)
            .map_err(|error| Failure::because("find the folder", &error))?;
        let local = Local::read(&global, &folder)?;
        let settings = settings::settle(local.sources(&global))?;
        Self::with(global, terminal, settings)
    }

    /// For who has no credential yet, and shows none: the server is any that is named.
    pub fn for_strangers(
        global: Global,
        terminal: Terminal,
        folder: &std::path::Path,
    ) -> Result<Self, Failure> {
        let local = Local::read(&global, folder)?;
        let server = settings::server_to_sign_in(local.sources(&global))?;
        let place = settings::place(&global, &local.project, None);
        Self::with(global, terminal, Settings { server, token: None, place })
    }

    fn with(global: Global, terminal: Terminal, settings: Settings) -> Result<Self, Failure> {
        let client = client(&settings, &global, terminal.err_is_terminal())?;
        Ok(Self {
            signed_in: settings.token.is_some(),
            place: settings.place,
            global,
            terminal,
            client,
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Without a token there is no use in asking.
    pub fn require_sign_in(&self) -> Result<(), Failure> {
        if self.signed_in { Ok(()) } else { Err(Failure::not_signed_in()) }
    }

    /// A path below the org.
    pub fn org(&self, parts: &[&str]) -> Target {
        Target::org(&self.place.org, parts)
    }

    /// A path below an app.
    pub fn of_app(&self, app: &App, parts: &[&str]) -> Target {
        let id = app.id.to_string();
        let mut all = vec!["apps", id.as_str()];
        all.extend(parts);
        self.org(&all)
    }

    /// The apps of the environment that this is about.
    pub fn apps_here(&self) -> Target {
        self.org(&["apps"])
            .with("project", &self.place.project)
            .with("environment", &self.place.env)
    }

    /// The app that is meant: named, the folder's, or the only one.
    pub async fn app(&self, guess: Guess) -> Result<App, Failure> {
        match &self.place.app {
            Some(named) => self.app_named(named).await,
            None => self.app_of_folder(guess).await,
        }
    }

    /// The app by its name or its id.
    pub async fn app_named(&self, named: &str) -> Result<App, Failure> {
        if named.starts_with(APP_ID_PREFIX) {
            return Ok(self.client.get(&self.org(&["apps", named])).await?);
        }
        let name: AppName = named.parse()?;
        match self.find(&name).await? {
            Some(app) => Ok(app),
            None => Err(self.no_such_app(&name).await),
        }
    }

    pub async fn find(&self, name: &AppName) -> Result<Option<App>, Failure> {
        self.require_sign_in()?;
        let target = self.apps_here().with("name", name);
        Ok(self.client.some::<App>(&target, 1).await?.pop())
    }

    async fn app_of_folder(&self, guess: Guess) -> Result<App, Failure> {
        let name = app_name::of_folder(std::path::Path::new("."));
        if let Some(app) = self.find(&name).await? {
            return Ok(app);
        }
        let mut some: Vec<App> = self.client.some(&self.apps_here(), 2).await?;
        match (some.len(), guess) {
            (1, Guess::Harmless) => Ok(some.remove(0)),
            (0, _) => Err(Failure::not_found(format!("there is no app in {}", self.here()))
                .hint("deploy one: insula deploy")),
            (_, _) => Err(Failure::usage("which app is meant?").hint(self.apps_hint().await)),
        }
    }

    /// `default/production`, with the org where it is not the usual one.
    pub fn here(&self) -> String {
        format!("{}/{}/{}", self.place.org, self.place.project, self.place.env)
    }

    async fn no_such_app(&self, name: &AppName) -> Failure {
        let failure = Failure::not_found(format!("there is no app `{name}` in {}", self.here()));
        failure.hint(self.apps_hint().await)
    }

    async fn apps_hint(&self) -> String {
        let apps: Vec<App> =
            self.client.some(&self.apps_here(), HINT_APPS_MAX).await.unwrap_or_default();
        let names: Vec<_> = apps.iter().map(|app| app.name.to_string()).collect();
        match names.as_slice() {
            [] => "deploy one: insula deploy".into(),
            names => format!("name one with --app: {}", names.join(", ")),
        }
    }
}

/// The client, which says on a terminal what it waits for.
pub fn client(settings: &Settings, global: &Global, tells: bool) -> Result<Client, Failure> {
    let server = settings.server.clone();
    let waiting = Box::new(move |why: &str| {
        if tells {
            eprintln!("waiting for {server}: {why}");
        }
    });
    let token = settings.token.as_ref();
    Ok(Client::new(settings.server.clone(), token, global.insecure_http, waiting)?)
}
