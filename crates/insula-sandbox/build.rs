//! Compiles the init (`init/main.rs`) into a small static program that the crate embeds.
//!
//! The compiler is the one that builds the crate; nothing else is needed than the linker that Rust
//! itself uses.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    for file in ["init/main.rs", "init/sys.rs", "init/contract.rs", "build.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let target = env::var("TARGET").expect("cargo names the target");
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a folder")).join("insula-init");
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo names the compiler"));
    rustc.args(["--edition=2024", "--crate-name=insula_init", "--crate-type=bin"]);
    rustc.args(["--target", &target, "-o"]).arg(&out);
    for option in [
        "panic=abort",
        "opt-level=s",
        "codegen-units=1",
        "strip=symbols",
        "relocation-model=static",
        "debuginfo=0",
        "overflow-checks=off",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,-z,noseparate-code",
        "link-arg=-Wl,-z,noexecstack",
    ] {
        rustc.arg("-C").arg(option);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.arg("init/main.rs").status().expect("the compiler starts");
    assert!(status.success(), "the sandbox's init did not compile for {target}: {status}");
}
