//! `insula up` where a part of it cannot start.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Anything that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two ports that nobody has; what else runs here takes its own from the same range.
fn free() -> [SocketAddr; 2] {
    let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    taken.map(|listener| listener.local_addr().unwrap())
}

fn up(data: &Path) -> Output {
    let [api, edge] = free();
    let mut child = Command::new(env!("CARGO_BIN_EXE_insula"))
        .args([
            "up",
            "--log-json",
            "--api",
            &api.to_string(),
            "--edge",
            &edge.to_string(),
            "--data",
        ])
        .arg(data)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).map(|_| bytes)
    });
    let began = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if began.elapsed() > PATIENCE => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it goes on as if all were well");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut said = Vec::new();
    stdout.read_to_end(&mut said).unwrap();
    Output { status, stdout: said, stderr: reading.join().unwrap().unwrap() }
}

#[test]
fn up_tells_what_its_agent_ended_of_and_not_that_it_is_up() {
    // Where root has its installation: others may pass through.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    open_to_pass(folder.path());
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("agent/node.json")).unwrap();
    std::fs::write(data.join("format"), "1\n").unwrap();
    let Output { status, stdout, stderr } = up(&data);
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    if stderr.contains("does not let an ordinary user make sandboxes") {
        assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "{stderr}");
        eprintln!("SKIPPED: {stderr}");
        return;
    }
    assert_eq!(status.code(), Some(1), "{stdout}{stderr}");
    assert_eq!(stdout, "", "nothing is up");
    let last = stderr.rfind("insula: the agent cannot start: ").map(|at| &stderr[at..]);
    let last = last.unwrap_or_else(|| panic!("{stderr}"));
    assert!(last.contains("node.json") && last.contains("its log is above"), "{last}");
}

fn open_to_pass(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}
