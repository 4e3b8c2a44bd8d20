//! A sandbox on a network of its own, and off it again. Which packets may pass is tested with the
//! rules themselves.
//!
//! The test's thread lives in a network namespace of its own, which stands for the host.

use insula_sandbox::Network;
use insula_sandbox::net::{NetConfig, ensure_host};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::bed::{Bed, needs_python, needs_root, read_line};

/// From here on the calling thread, and what it starts, is on another machine's network.
fn leave_the_network() {
    // SAFETY: descriptors, memory and files stay shared; only the network of this thread changes.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network namespace");
}

fn links() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("the links");
    text.lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

#[test]
fn an_instance_has_an_address_and_leaves_no_link_behind() {
    if !needs_root() || !needs_python() {
        return;
    }
    leave_the_network();
    let bed = Bed::new();
    let pool = NetConfig::default_pool();
    let config = NetConfig::new("sbx".parse().unwrap(), pool, vec![]).unwrap();
    if let Err(error) = ensure_host(&config) {
        crate::bed::skip(&format!("the kernel lacks what the network needs: {error}"));
        return;
    }
    let before = links();
    let address = "10.87.0.2".parse().unwrap();
    let script = "
import socket
print([name for _, name in socket.if_nameindex()])
s = socket.create_server(('0.0.0.0', 8080)); print('ready', flush=True)
c, peer = s.accept(); print(peer[0], c.recv(5).decode(), flush=True)
print(socket.gethostbyname(socket.gethostname()), flush=True)";
    let mut spec = bed.spec("test", &["python3", "-c", script]);
    spec.network = Network::Own(config.attachment(address, 1));
    let record = bed.runtime.launch(&spec).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    assert_eq!(read_line(&mut out), "['lo', 'eth0']");
    assert_eq!(read_line(&mut out), "ready");
    let ports = bed.runtime.listening_ports(&record).unwrap();
    assert_eq!(ports.iter().map(|l| l.port).collect::<Vec<_>>(), [8080]);
    let mut stream = std::net::TcpStream::connect((address, 8080)).unwrap();
    std::io::Write::write_all(&mut stream, b"hello").unwrap();
    assert_eq!(read_line(&mut out), "10.87.0.1 hello");
    assert_eq!(read_line(&mut out), "10.87.0.2");
    assert_eq!(links().len(), before.len() + 1);
    bed.runtime.destroy(&record).unwrap();
    assert_eq!(links(), before);
    bed.runtime.destroy(&record).expect("again is fine");
}

#[test]
fn a_network_that_cannot_be_joined_fails_the_launch_with_its_cause() {
    if !needs_root() {
        return;
    }
    leave_the_network();
    let bed = Bed::new();
    let config = NetConfig::new("sbx".parse().unwrap(), NetConfig::default_pool(), vec![]).unwrap();
    // Nothing has put up the host's side.
    let mut spec = bed.shell("test", "true");
    spec.network = Network::Own(config.attachment("10.87.0.2".parse().unwrap(), 1));
    let error = bed.runtime.launch(&spec).unwrap_err().to_string();
    assert!(error.contains("join the network"), "{error}");
    assert_eq!(links(), ["lo"]);
    assert_eq!(bed.remains(), Vec::<String>::new());
}
