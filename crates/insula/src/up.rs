//! `insula up`: every role on this machine, supervised.

use std::io::{ErrorKind, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use insula_kit::shutdown::{Cause, Shutdown};
use insula_kit::telemetry::{LogFormat, Telemetry};
use insula_model::HostName;
use tokio::sync::watch;
use tracing::error;

use crate::data::Data;
use crate::kept::Kept;
use crate::own_node::{self, Standing};
use crate::role::blobs::CREDENTIALS;
use crate::role::gateway::GATEWAY_USER;
use crate::role::relay;
use crate::role::server::DATABASE;
use crate::supervise::{self, Environment, Failing, Role};

/// How long the roles may take to answer for the first time.
const READY_TIME_MAX: Duration = Duration::from_secs(30);
/// Between looks whether they answer.
const READY_LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data folder [default: /var/lib/insula as root, else the XDG data folder]
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the API listens; plain HTTP, so loopback only
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDR")]
    api: SocketAddr,
    /// Where the gateway listens for your apps' visitors
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    edge: SocketAddr,
    /// Apps answer at NAME-ID.SUFFIX
    #[arg(long, default_value = "localhost", value_name = "SUFFIX")]
    domain: HostName,
    /// Let other machines join: where agents and gateways dial in, over mutual TLS
    #[arg(long, value_name = "ADDR")]
    fleet: Option<SocketAddr>,
    /// What they are told to dial instead, if that is another address
    #[arg(long, requires = "fleet", value_name = "ADDR")]
    advertise: Option<SocketAddr>,
    /// Where other machines reach what runs here [default: port 7444 of the fleet's address]
    #[arg(long, requires = "fleet", value_name = "ADDR")]
    relay: Option<SocketAddr>,
    #[command(flatten)]
    promises: crate::role::server::Promises,
    /// The network that instances get addresses from
    #[arg(long, default_value = "10.87.0.0/16", value_name = "CIDR")]
    pool: String,
    /// A private range that apps may reach (may be given again)
    #[arg(long, value_name = "CIDR")]
    open: Vec<String>,
    /// Show apps the host's /usr/local and /usr/src
    #[arg(long)]
    open_usr_local: bool,
    /// Log as JSON even on a terminal
    #[arg(long)]
    log_json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::role::server::refuse_off_loopback(args.api)?;
    let root = rustix::process::geteuid().is_root();
    if !root {
        crate::doctor::refuse_without_user_namespaces()?;
    }
    let data = Data::choose(args.data.clone())?;
    if root {
        // The agent says the same, but only to a log, and would be started again and again.
        crate::role::agent::network(&data, &args.pool, &args.open)?;
    }
    data.prepare()?;
    let _lock = data.hold()?;
    if root {
        data.refuse_closed_parents()?;
    }
    crate::role::wait_for_predecessors(&data)?;
    refuse_taken(args.api, "--api")?;
    refuse_taken(args.edge, "--edge")?;
    for (address, flag) in [(args.fleet, "--fleet"), (relay_of(&args), "--relay")] {
        if let Some(address) = address {
            refuse_unreachable(address, args.advertise, flag)?;
            refuse_taken(address, flag)?;
        }
    }
    let format = if args.log_json { LogFormat::Json } else { LogFormat::Auto };
    let filter = std::env::var(insula_kit::telemetry::FILTER_VARIABLE).ok();
    Telemetry { role: "up", format, filter: Some(filter.unwrap_or_else(|| "warn".into())) }
        .start()?;
    // One thread: a child that asks to die with its parent means the parent's thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise_all(&args, &data, root))
}

/// Where the agent listens for the rest of the fleet.
fn relay_of(args: &Args) -> Option<SocketAddr> {
    let beside = |fleet: SocketAddr| SocketAddr::new(fleet.ip(), relay::PORT);
    args.relay.or(args.fleet.map(beside))
}

/// Nobody can dial every address of a machine.
fn refuse_unreachable(
    address: SocketAddr,
    advertise: Option<SocketAddr>,
    flag: &str,
) -> anyhow::Result<()> {
    if address.ip().is_unspecified() && advertise.is_none() {
        bail!(
            "{flag} {address} is every address of this machine: say with --advertise IP:PORT which \
             one other machines shall dial"
        );
    }
    Ok(())
}

/// Somebody else's listener would be taken for ours, or share our visitors.
pub fn refuse_taken(address: SocketAddr, flag: &str) -> anyhow::Result<()> {
    let Err(error) = std::net::TcpListener::bind(address) else { return Ok(()) };
    let way_out = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "something listens there already (`ss -ltnp 'sport = :{}'` says what); end that, or give \
             another with {flag}",
            address.port()
        ),
        ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; give one that it has with {flag}")
        }
        ErrorKind::PermissionDenied => {
            format!("this user may not; run it as root, or give a port above 1023 with {flag}")
        }
        _ => format!("give another with {flag}"),
    };
    bail!("{flag} {address} cannot be listened on: {way_out}: {error}")
}

async fn supervise_all(args: &Args, data: &Data, root: bool) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    shutdown.listen_to_signals().context("listen to signals")?;
    if root {
        let (user, group) = GATEWAY_USER;
        std::os::unix::fs::chown(data.gateway(), Some(user), Some(group))
            .with_context(|| format!("give {} to the gateway", data.gateway().display()))?;
    }
    let patience = patience(data)?;
    let (end, _) = watch::channel(false);
    let (failing, mut failed) = watch::channel(None);
    let mut running = Vec::new();
    for role in roles(args, data, root)? {
        let keeping = supervise::keep(role, shutdown.clone(), end.subscribe(), failing.clone());
        running.push(tokio::spawn(keeping));
    }
    let ready = async {
        answering("the API", args.api, patience).await?;
        let gateway = answering("the gateway", args.edge, Some(READY_TIME_MAX));
        let (gateway, node) = tokio::join!(gateway, own_node::settled(data));
        gateway.map(|()| node)
    };
    let ready = tokio::select! {
        ready = ready => ready.map(Some),
        Ok(role) = failed.wait_for(Option::is_some) => {
            Err(anyhow::anyhow!("{}", role.as_ref().map(hopeless).unwrap_or_default()))
        }
        _ = shutdown.requested() => Ok(None),
    };
    let outcome = match ready {
        Ok(Some(node)) if !shutdown.begun() => {
            greet(args, data, root, &node);
            if let Standing::Ailing(_) | Standing::Away(_) = node {
                tokio::select! {
                    () = own_node::better(data) => {
                        // A closed stdout is no reason to stop serving.
                        let _ = std::io::stdout().write_all(b"\nThe node of this machine is ready now.\n");
                    }
                    _ = shutdown.requested() => {}
                }
            }
            Ok(shutdown.requested().await)
        }
        Ok(_) => Ok(shutdown.requested().await),
        Err(error) => Err(error),
    };
    if !shutdown.begun() {
        // Only then: asking twice means that somebody does not want to wait for the apps.
        shutdown.begin(Cause::Own);
    }
    // An error means that every role has ended by itself.
    let _ = end.send(true);
    for task in running {
        if let Err(error) = task.await {
            error!(%error, "a supervising task failed");
        }
    }
    match outcome? {
        Cause::Interrupt => {
            eprintln!("Stopping the apps too; SIGTERM would have left them running.");
            tokio::select! {
                stopped = crate::down::stop_apps(data) => { stopped?; }
                () = shutdown.insisted() => {
                    bail!("asked to end again: some apps may still run; `insula down` stops them")
                }
            }
        }
        Cause::Terminate | Cause::Own => {
            eprintln!(
                "The apps go on running; `insula up` takes them over, `insula down --data {}` stops them.",
                data.root().display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn roles(args: &Args, data: &Data, root: bool) -> anyhow::Result<Vec<Role>> {
    let path = data.root().to_str().context("the data folder's path is not UTF-8")?.to_owned();
    let format = if args.log_json { "json" } else { "auto" };
    // A person at a terminal wants the addresses, not every step on the way to them.
    let said = std::env::var_os(insula_kit::telemetry::FILTER_VARIABLE).is_some();
    let person = !args.log_json && !said && std::io::stderr().is_terminal();
    let log_filter = person.then_some("warn");
    let role = |name: &'static str, more: &[String], environment, user: Option<_>| {
        let mut all: Vec<String> =
            [name, "--data", &path, "--log-format", format].map(str::to_owned).to_vec();
        all.extend(more.iter().cloned());
        // The gateway parses strangers' bytes: nothing that it writes is read as root.
        let last_words = user.is_none().then(|| data.last_words(name));
        Role { name, args: all, environment, log_filter, user, last_words }
    };
    let mut deciding = [
        ["--api".to_owned(), args.api.to_string()],
        ["--edge".to_owned(), args.edge.to_string()],
        ["--domain".to_owned(), args.domain.to_string()],
    ]
    .concat();
    deciding.extend(args.promises.args());
    for (flag, address) in [("--fleet", args.fleet), ("--advertise", args.advertise)] {
        deciding.extend(address.into_iter().flat_map(|at| [flag.to_owned(), at.to_string()]));
    }
    let server = role("server", &deciding, Environment::Whole, None);
    let mut network = vec!["--pool".to_owned(), args.pool.clone()];
    if let Some(relay) = relay_of(args) {
        network.extend(["--relay".to_owned(), relay.to_string()]);
        if let Some(advertised) = args.advertise.filter(|_| relay.ip().is_unspecified()) {
            let shown = SocketAddr::new(advertised.ip(), relay.port());
            network.extend(["--advertise".to_owned(), shown.to_string()]);
        }
    }
    for open in &args.open {
        network.extend(["--open".to_owned(), open.clone()]);
    }
    if args.open_usr_local {
        network.push("--open-usr-local".to_owned());
    }
    // Other ports of ours that apps must not reach follow from "nothing of the host".
    let agent = role("agent", &network, Environment::Without(&CREDENTIALS), None);
    let edge = ["--listen".to_owned(), args.edge.to_string()];
    let gateway = role("gateway", &edge, Environment::Logging, root.then_some(GATEWAY_USER));
    Ok(vec![server, agent, gateway])
}

/// How long the API may take to answer for the first time. Behind a database that others keep it
/// comes when that comes; what it waits for the server says by itself.
fn patience(data: &Data) -> anyhow::Result<Option<Duration>> {
    let shared = std::env::var_os(DATABASE).is_some() || Kept::read(data)?.database.is_some();
    Ok((!shared).then_some(READY_TIME_MAX))
}

/// Until a door takes connections.
async fn answering(
    what: &str,
    address: SocketAddr,
    patience: Option<Duration>,
) -> anyhow::Result<()> {
    let connect = async {
        while tokio::net::TcpStream::connect(reachable(address)).await.is_err() {
            tokio::time::sleep(READY_LOOK).await;
        }
    };
    let Some(patience) = patience else {
        connect.await;
        return Ok(());
    };
    if tokio::time::timeout(patience, connect).await.is_err() {
        bail!("{what} does not answer on {address} within {patience:?}; its log is above");
    }
    Ok(())
}

/// Of a role that ends as soon as it starts.
fn hopeless(failing: &Failing) -> String {
    let Failing { role, ended, said } = failing;
    match said {
        Some(said) => format!(
            "the {role} cannot start: {said}\n  (it was tried several times; its log is above)"
        ),
        None => format!("the {role} ends as soon as it starts ({ended}); its log is above"),
    }
}

/// Where a listener on all addresses is reached from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port()))
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

fn greet(args: &Args, data: &Data, root: bool, node: &Standing) {
    // A closed stdout is no reason to stop serving.
    let _ = std::io::stdout().write_all(greeting(args, data, root, node).as_bytes());
}

fn greeting(args: &Args, data: &Data, root: bool, node: &Standing) -> String {
    let default = insula_cli::default_data_folder().is_ok_and(|folder| folder == data.root());
    let with_data =
        if default { String::new() } else { format!(" --data {}", data.root().display()) };
    let first = match node {
        Standing::Ready => "Insula is up.".to_owned(),
        Standing::Kept(why) => format!("Insula is up. Of the node on this machine: {why}."),
        Standing::Ailing(why) => {
            format!("Insula is up, but its node is not ready, and apps may not start: {why}.")
        }
        Standing::Away(why) => format!(
            "Insula is up, but without its node, so no app can start here: {why}.\nWhat the agent says \
             of it is in the log, on stderr."
        ),
    };
    let mut said = format!(
        "{first}\n  api   http://{}\n  apps  http://NAME-ID.{}:{}\n  data  {}\n",
        args.api,
        args.domain,
        args.edge.port(),
        data.root().display()
    );
    if !root {
        said.push_str(
            "\nDevelopment mode: as an ordinary user there are no hard limits and no networks of \
             their own.\n`insula doctor` says what that means, line by line.\n",
        );
    }
    said.push_str(&format!(
        "\nNext, in another terminal:\n  insula deploy examples/static{with_data}\n"
    ));
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_behind_a_database_of_others_may_take_as_long_as_that() {
        let folder = tempfile::tempdir().unwrap();
        let data = Data::choose(Some(folder.path().join("data"))).unwrap();
        data.prepare().unwrap();
        assert_eq!(patience(&data).unwrap(), Some(READY_TIME_MAX));
        let database = Some("postgres://insula@db/insula".to_owned());
        Kept { database, blobs: None }.write(&data).unwrap();
        assert_eq!(patience(&data).unwrap(), None);
    }

    fn args() -> Args {
        let line = ["insula", "up", "--api", "127.0.0.1:1", "--edge", "127.0.0.1:1"];
        match <crate::Insula as clap::Parser>::parse_from(line).command {
            crate::Command::Up(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_is_waited_for_without_end_if_it_may_take_long() {
        let api = args().api;
        let error = answering("the API", api, Some(READY_TIME_MAX)).await.unwrap_err();
        assert!(error.to_string().contains("does not answer on 127.0.0.1:1"), "{error}");
        let waiting = answering("the API", api, None);
        let waiting = tokio::time::timeout(READY_TIME_MAX * 2, waiting).await;
        assert!(waiting.is_err(), "it goes on waiting");
    }

    #[test]
    fn an_address_that_cannot_be_had_is_told_of_with_its_flag_and_a_way_out() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let said = refuse_taken(address, "--relay").unwrap_err().to_string();
        let start =
            format!("--relay {address} cannot be listened on: something listens there already");
        assert!(said.starts_with(&start) && said.contains("another with --relay"), "{said}");
        // Of the documentation: nobody has it.
        let said = refuse_taken(([192, 0, 2, 1], 0).into(), "--edge").unwrap_err().to_string();
        assert!(said.contains("this machine has no such address"), "{said}");
        drop(taken);
        refuse_taken(address, "--relay").unwrap();
    }

    #[test]
    fn every_address_is_none_that_others_can_dial() {
        let every = ([0, 0, 0, 0], 7443).into();
        let one = ([10, 0, 0, 1], 7443).into();
        let said = refuse_unreachable(every, None, "--fleet").unwrap_err().to_string();
        assert!(said.contains("--advertise IP:PORT"), "{said}");
        refuse_unreachable(every, Some(one), "--fleet").unwrap();
        refuse_unreachable(one, None, "--fleet").unwrap();
    }

    #[test]
    fn up_says_that_it_is_up_and_no_more_than_is_true() {
        let folder = tempfile::tempdir().unwrap();
        let data = Data::choose(Some(folder.path().to_owned())).unwrap();
        let first = |node: Standing| {
            let said = greeting(&args(), &data, true, &node);
            said.lines().next().unwrap().to_owned()
        };
        assert_eq!(first(Standing::Ready), "Insula is up.");
        let why = || "it is degraded (its disk is full)".to_owned();
        assert_eq!(
            first(Standing::Ailing(why())),
            "Insula is up, but its node is not ready, and apps may not start: it is degraded (its disk \
             is full)."
        );
        for standing in [Standing::Kept(why()), Standing::Away(why())] {
            let said = first(standing);
            assert!(said != "Insula is up." && said.contains("disk is full"), "{said}");
        }
    }

    #[test]
    fn a_role_that_cannot_start_is_told_of_in_its_own_words() {
        let ended = "exit code 1".to_owned();
        let said = Some("run the agent: make the group: no such file".to_owned());
        let words = hopeless(&Failing { role: "agent", ended: ended.clone(), said });
        assert!(
            words.starts_with("the agent cannot start: run the agent: make the group"),
            "{words}"
        );
        let words = hopeless(&Failing { role: "gateway", ended, said: None });
        assert_eq!(words, "the gateway ends as soon as it starts (exit code 1); its log is above");
    }
}
