//! `insula login`: a password, or a token, becomes a sign-in that is remembered.

use insula_model::Email;
use insula_wire::rest::auth::{SignIn as Asked, SignedIn, Whoami};
use insula_wire::rest::page::Hidden;

use crate::Global;
use crate::client::{Client, Server, Target};
use crate::context::{self, Local};
use crate::credentials::{self, SignIn};
use crate::failure::{Exit, Failure, Outcome};
use crate::place;
use crate::settings::{self, Settings};
use crate::show::{Terminal, clean};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the server [default: --server, the folder's, the last one, this machine]
    address: Option<String>,
    /// E-mail address; asked for if it is not given
    #[arg(long, env = "INSULA_EMAIL", value_name = "EMAIL")]
    email: Option<Email>,
}

/// The password comes from the terminal without being shown, or as one line of stdin. A token that
/// is given is remembered instead.
pub async fn run(args: Args, global: Global, terminal: Terminal) -> Outcome {
    let local = Local::read(&global, std::path::Path::new("."))?;
    let server: Server = match &args.address {
        Some(address) => address.parse()?,
        // Signing in is how one comes to trust what a project file names.
        None => settings::server_to_sign_in(local.sources(&global))?,
    };
    let token = global.token.clone().filter(|token| !token.is_empty()).map(Hidden);
    let place = settings::place(&global, &local.project, None);
    let settings = Settings { server: server.clone(), token, place };
    let client = context::client(&settings, &global, terminal.err_is_terminal())?;
    if let Some(token) = settings.token {
        let whoami: Whoami = client.get(&Target::v1(&["whoami"])).await?;
        let email = whoami.email.as_ref().map(ToString::to_string);
        let orgs = names(&whoami);
        remember(&server, SignIn { token, email, expires: whoami.expires, orgs: orgs.clone() })?;
        terminal.say(&format!("signed in to {server} with the given token"));
        tell_orgs(&terminal, &orgs);
        return Ok(Exit::OK);
    }
    let email = match args.email {
        Some(email) => email,
        None => {
            if !terminal.can_ask() {
                return Err(Failure::usage("who signs in?").hint("give --email"));
            }
            terminal.ask(&format!("e-mail address at {server}: "), false)?.trim().parse()?
        }
    };
    let password = terminal.ask("password: ", true)?;
    let orgs = sign_in(&client, &global, email.clone(), Hidden(password)).await?;
    terminal.say(&format!("signed in to {server} as {email}"));
    tell_orgs(&terminal, &orgs);
    Ok(Exit::OK)
}

/// Says which org is meant from now on, or that one has to be named.
pub fn tell_orgs(terminal: &Terminal, orgs: &[String]) {
    match (orgs, settings::orgs_hint(orgs)) {
        ([only], _) => terminal.say(&format!("org: {}", clean::line(only))),
        (_, Some(hint)) => terminal.say(&clean::line(&hint)),
        (_, None) => {}
    }
}

fn names(whoami: &Whoami) -> Vec<String> {
    whoami.orgs.iter().map(|org| org.name.to_string()).collect()
}

/// Signs in and remembers it, with the orgs that it opens.
pub async fn sign_in(
    client: &Client,
    global: &Global,
    email: Email,
    password: Hidden,
) -> Result<Vec<String>, Failure> {
    let asked = Asked { email: email.clone(), password };
    let answer: SignedIn = client.post(&Target::v1(&["sign-in"]), &asked).await?;
    let server = client.server();
    let signed_in =
        Client::new(server.clone(), Some(&answer.token), global.insecure_http, Box::new(|_| ()))?;
    // One is signed in also where this cannot be asked; then orgs are named by hand.
    let whoami = signed_in.get::<Whoami>(&Target::v1(&["whoami"])).await;
    let orgs = whoami.map(|whoami| names(&whoami)).unwrap_or_default();
    let sign_in = SignIn {
        token: answer.token,
        email: Some(email.to_string()),
        expires: Some(answer.expires),
        orgs: orgs.clone(),
    };
    remember(server, sign_in)?;
    Ok(orgs)
}

fn remember(server: &Server, sign_in: SignIn) -> Result<(), Failure> {
    let config = place::config_folder();
    let mut saved = credentials::load(config.as_deref())?;
    saved.add(server, sign_in);
    credentials::store(config.as_deref(), &saved)?;
    Ok(())
}
