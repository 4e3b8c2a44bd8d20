//! Measures how long a sandbox takes from the request to the app's first byte. Needs root.
//!
//! `cargo run --release -p insula-sandbox --example launch_latency [count]`

use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use insula_sandbox::{
    AppLayer, Limits, Mode, Network, Runtime, RuntimeConfig, SandboxId, SandboxSpec, Upper,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    if let Some(code) = insula_sandbox::dispatch_hidden() {
        return code;
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error} ({:?})", error.source());
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Outcome<()> {
    let count = std::env::args().nth(1).map_or(Ok(50), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let layer = dir.path().join("layer");
    std::fs::create_dir(&layer)?;
    let parent = format!("insula-latency-{}", std::process::id());
    let runtime = Runtime::open(RuntimeConfig::new(Mode::Root, dir.path().join("run"), parent))?;
    let (mut launched, mut first_byte, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..count {
        let spec = spec(number, &layer)?;
        let start = Instant::now();
        let record = runtime.launch(&spec)?;
        launched.push(start.elapsed());
        // Without the flag this waits for the byte.
        let mut out = std::fs::File::open(runtime.dir(&record.id).out())?;
        out.read_exact(&mut [0; 1])?;
        first_byte.push(start.elapsed());
        let start = Instant::now();
        runtime.destroy(&record)?;
        gone.push(start.elapsed());
    }
    for (what, times) in [("launched", launched), ("first byte", first_byte), ("destroyed", gone)] {
        println!("{what:<12} {}", summary(times));
    }
    Ok(())
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().max(1) - 1));
    let ms = |time: Option<&Duration>| time.map_or(0.0, |t| t.as_secs_f64() * 1_000.0);
    format!("median {:.2} ms, p10 {:.2}, p90 {:.2}", ms(at(50)), ms(at(10)), ms(at(90)))
}

fn spec(number: usize, layer: &std::path::Path) -> Outcome<SandboxSpec> {
    Ok(SandboxSpec {
        id: SandboxId::new(format!("n{number}"))?,
        argv: vec!["/usr/bin/echo".into(), "x".into()],
        env: vec![],
        cwd: "/app".into(),
        app: AppLayer { lower: vec![layer.into()], upper: Upper::Memory { bytes: 64 << 20 } },
        binds: vec![],
        limits: Limits {
            memory_bytes: 256 << 20,
            cpu_milli: 1_000,
            pids: 100,
            nofile: 1_024,
            tmp_bytes: 64 << 20,
            shm_bytes: 64 << 20,
        },
        network: Network::None,
        uid_base: 1 << 24,
        hostname: "bench".into(),
        resolver: None,
        open_usr_local: false,
        extra_hosts: vec![],
    })
}
