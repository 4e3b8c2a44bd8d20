//! Makes the guest's disk and the small first root that mounts it.
//!
//! The disk is a Debian system made of packages that this machine has installed: nothing is
//! downloaded, and what runs inside is what the distribution ships. Only reads this machine.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::Kernel;
use crate::process;

/// What the tests and systemd need; apt adds what these need.
const PACKAGES: &[&str] = &[
    "coreutils",
    "dash",
    "dbus",
    "findutils",
    "grep",
    "hostname",
    "libc-bin",
    "libgcc-s1",
    "mount",
    "python3",
    "sed",
    "systemd-sysv",
    "util-linux",
];
/// Text for people; the guest has none.
const LEFT_OUT: &[&str] = &["/usr/share/doc", "/usr/share/man", "/usr/share/locale"];
/// Links of a merged `/usr`, which belong to no package.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];
/// Room for the packages, the modules, our programs and the swap, twice.
const DISK_SIZE: &str = "1536m";
/// What mounts the disk.
const FIRST_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "ext4"];

/// Where something is mounted or written, and what belongs to no package.
const FOLDERS: &[&str] =
    &["dev", "proc", "root", "run", "sys", "tmp", "usr/local/bin", "usr/src", "var/log", "var/tmp"];

const ACCOUNTS: &str = "root:x:0:0:root:/root:/bin/sh\nmessagebus:x:100:100::/:/usr/sbin/nologin\n\
                        nobody:x:65534:65534::/:/usr/sbin/nologin\n";
const GROUPS: &str = "root:x:0:\ntty:x:5:\nmessagebus:x:100:\nnogroup:x:65534:\n";

/// Files that are ours, in the guest: path, mode, text.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/passwd", 0o644, ACCOUNTS),
    ("etc/group", 0o644, GROUPS),
    ("etc/hostname", 0o644, "guest\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 guest\n"),
    ("etc/fstab", 0o644, ""),
    ("etc/machine-id", 0o444, ""),
    ("etc/systemd/system/proof.service", 0o644, include_str!("proof.service")),
    ("etc/systemd/system/proof.target", 0o644, include_str!("proof.target")),
    ("usr/sbin/modprobe", 0o755, include_str!("modprobe.sh")),
    ("opt/proof/first", 0o755, include_str!("first.sh")),
    ("opt/proof/service", 0o755, include_str!("service.sh")),
    ("opt/proof/container", 0o755, include_str!("container.sh")),
    ("opt/proof/platform", 0o755, include_str!("platform.sh")),
];

pub struct Image {
    pub disk: PathBuf,
    pub initramfs: PathBuf,
}

/// What of ours goes onto the disk.
pub struct Ours {
    pub tests: PathBuf,
    pub binary: PathBuf,
    /// The page that shows operators the unit.
    pub operators: PathBuf,
    pub app: PathBuf,
}

pub fn make(dir: &Path, kernel: &Kernel, ours: &Ours) -> Result<Image> {
    let root = dir.join("root");
    copy_packages(&root)?;
    for (path, mode, text) in FILES {
        write(&root.join(path), *mode, text.as_bytes())?;
    }
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("make {folder}"))?;
    }
    copy(&ours.tests, &root.join("opt/proof/it"))?;
    copy(&ours.binary, &root.join("usr/local/bin/insula"))?;
    let mut app = process::command("cp");
    process::run(app.arg("-r").arg(&ours.app).arg(root.join("opt/proof/python")))?;
    let page = fs::read_to_string(&ours.operators).context("read the operators' page")?;
    let unit = unit(&page).context("the operators' page shows no unit")?;
    write(&root.join("etc/systemd/system/insula.service"), 0o644, unit.as_bytes())?;
    copy(Path::new("/usr/bin/busybox"), &root.join("usr/bin/busybox"))?;
    let modules = modules(&root, kernel)?;
    run_quietly("/usr/sbin/ldconfig", &["-r".as_ref(), root.as_os_str()])?;
    let initramfs = first_root(dir, kernel, &modules)?;
    Ok(Image { disk: disk(dir, &root)?, initramfs })
}

/// The unit that a page shows. Pure.
fn unit(page: &str) -> Option<&str> {
    let (_, rest) = page.split_once("```ini\n")?;
    Some(rest.split_once("```")?.0)
}

fn copy_packages(root: &Path) -> Result<()> {
    let mut list = Vec::new();
    for file in package_files()? {
        list.extend_from_slice(file.as_os_str().as_encoded_bytes());
        list.push(0);
    }
    fs::create_dir(root).with_context(|| format!("make {}", root.display()))?;
    let mut pack = process::command("tar")
        .args(["--create", "--directory=/", "--no-recursion", "--null", "--files-from=-"])
        .args(["--file=-", "--absolute-names", "--transform=s,^/,,rSH"])
        // What only root may read, nothing in the guest needs.
        .arg("--ignore-failed-read")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let (input, output) = (pack.stdin.take(), pack.stdout.take());
    let feeder = std::thread::spawn(move || input.map(|mut input| input.write_all(&list)));
    let mut unpack = process::command("tar");
    unpack.args(["--extract", "--preserve-permissions", "--file=-", "--directory"]).arg(root);
    unpack.stdin(output.map_or_else(Stdio::null, Stdio::from));
    process::run(&mut unpack)?;
    if !pack.wait().context("wait for tar")?.success() || feeder.join().is_err() {
        bail!("tar could not read the files of this machine's packages");
    }
    for name in MERGED {
        let link = root.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(format!("usr/{name}"), &link).with_context(|| format!("link {name}"))?;
        }
    }
    Ok(())
}

/// Every file of the packages and of what they depend on, by its real folder.
fn package_files() -> Result<BTreeSet<PathBuf>> {
    let mut ask = process::command("apt-cache");
    ask.args(["depends", "--recurse", "--installed", "--important"]).args(PACKAGES);
    let said = String::from_utf8(process::output(&mut ask)?).context("read what apt says")?;
    let names = package_names(&said);
    let mut list = process::command("dpkg-query");
    list.arg("--listfiles").args(&names);
    // It fails when apt named one that something else stands in for, and still tells of the others.
    let said = list.output().context("ask dpkg-query")?.stdout;
    let mut files = BTreeSet::new();
    for file in String::from_utf8_lossy(&said).lines().filter(|line| line.starts_with('/')) {
        let file = Path::new(file);
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { continue };
        // Packages still say `/bin/sh`; the merged folders would be replaced by such a name.
        let Ok(real) = folder.canonicalize() else { continue };
        let real = real.join(name);
        let wanted = !LEFT_OUT.iter().any(|out| real.starts_with(out));
        if wanted && fs::symlink_metadata(&real).is_ok() {
            files.insert(real);
        }
    }
    Ok(files)
}

/// apt prints packages at the start of a line, what they need below, `<such>` for names that
/// others provide. Pure.
fn package_names(said: &str) -> Vec<&str> {
    let starts = |line: &&str| line.starts_with(|c: char| c.is_ascii_alphanumeric());
    said.lines().filter(starts).collect()
}

/// Copies the kernel's modules, and returns those that mount the disk, in order of loading.
fn modules(root: &Path, kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let parent = root.join("usr/lib/modules");
    fs::create_dir_all(&parent).context("make the folder of modules")?;
    let mut copy = process::command("cp");
    process::run(copy.arg("-r").arg(&kernel.modules).arg(parent.join(&kernel.version)))?;
    run_quietly(
        "/usr/bin/busybox",
        &["depmod".as_ref(), "-b".as_ref(), root.as_os_str(), kernel.version.as_ref()],
    )?;
    let folder = parent.join(&kernel.version);
    let index = fs::read_to_string(folder.join("modules.dep")).context("read modules.dep")?;
    let order = load_order(&index, FIRST_MODULES);
    Ok(order.into_iter().map(|module| folder.join(module)).collect())
}

/// The files of these modules, each after what it needs. One without a file is in the kernel. Pure.
fn load_order<'a>(index: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    fn module(file: &str) -> &str {
        let name = file.rsplit('/').next().unwrap_or(file);
        name.split('.').next().unwrap_or(name)
    }
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        let line = index.lines().find_map(|line| {
            let (file, needs) = line.split_once(':')?;
            (module(file) == *name).then_some((file, needs))
        });
        let Some((file, needs)) = line else { continue };
        for need in needs.split_ascii_whitespace().rev().chain([file]) {
            if !order.contains(&need) {
                order.push(need);
            }
        }
    }
    order
}

/// The archive that the kernel unpacks into memory: a shell, the modules, a script.
fn first_root(dir: &Path, kernel: &Kernel, modules: &[PathBuf]) -> Result<PathBuf> {
    let first = dir.join("first");
    for folder in ["bin", "dev", "proc", "sys", "disk", "modules"] {
        fs::create_dir_all(first.join(folder)).with_context(|| format!("make {folder}"))?;
    }
    copy(Path::new("/usr/bin/busybox"), &first.join("bin/busybox"))?;
    let mut load = String::new();
    for module in modules {
        let name = module.file_name().context("a module has a name")?;
        copy(module, &first.join("modules").join(name))?;
        load += &format!("/bin/busybox insmod /modules/{}\n", name.to_string_lossy());
    }
    let script = format!(
        "#!/bin/busybox sh\n# Linux {}: mounts the disk and goes there.\n{load}\
         /bin/busybox mount -t devtmpfs none /dev\n\
         /bin/busybox mount -t ext4 /dev/vda /disk || exec /bin/busybox poweroff -f\n\
         /bin/busybox umount /dev\nexec /bin/busybox switch_root /disk /opt/proof/first\n",
        kernel.version
    );
    write(&first.join("init"), 0o755, script.as_bytes())?;
    let archive = dir.join("initramfs");
    let mut names = process::command("find");
    let names = process::output(names.current_dir(&first).arg("."))?;
    let target = fs::File::create(&archive).context("make the initramfs")?;
    let mut cpio = process::command("cpio")
        .args(["--create", "--format=newc", "--quiet", "--owner=0:0"])
        .current_dir(&first)
        .stdin(Stdio::piped())
        .stdout(target)
        .spawn()
        .context("start cpio")?;
    cpio.stdin
        .take()
        .context("cpio reads names")?
        .write_all(&names)
        .context("name files to cpio")?;
    if !cpio.wait().context("wait for cpio")?.success() {
        bail!("cpio could not pack the initramfs");
    }
    Ok(archive)
}

fn disk(dir: &Path, root: &Path) -> Result<PathBuf> {
    let disk = dir.join("disk");
    // Whoever we are, the files belong to the guest's root.
    let map = if crate::gate::is_root() { vec![] } else { vec!["--map-root-user"] };
    let mut make = process::command("unshare");
    make.args(map)
        .args(["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(root)
        .arg(&disk)
        .arg(DISK_SIZE)
        .stdout(Stdio::null());
    process::run(&mut make)?;
    Ok(disk)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let what = || format!("write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(what)?;
    }
    // A package may have a link there.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).with_context(what)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(what)
}

fn run_quietly(program: &str, words: &[&std::ffi::OsStr]) -> Result<()> {
    process::run(process::command(program).args(words).stdout(Stdio::null()).stderr(Stdio::null()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_the_lines_that_are_not_indented() {
        let said = "systemd\n  Depends: libc6\n |Depends: <x>\n<awk>\n    mawk\nlibc6\n";
        assert_eq!(package_names(said), ["systemd", "libc6"]);
    }

    #[test]
    fn the_unit_is_the_one_that_operators_read() {
        assert_eq!(unit("text\n```ini\n[Unit]\n```\nmore\n```"), Some("[Unit]\n"));
        let page = fs::read_to_string(process::root().join("docs/operators.md")).unwrap();
        assert!(unit(&page).unwrap().contains("ExecStart=/usr/local/bin/insula up"));
    }

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let index = "kernel/a/virtio.ko: \n\
                     kernel/a/ring.ko: kernel/a/virtio.ko\n\
                     kernel/a/virtio_pci.ko: kernel/a/ring.ko kernel/a/virtio.ko\n\
                     kernel/b/virtio_blk.ko: kernel/a/ring.ko kernel/a/virtio.ko\n";
        assert_eq!(
            load_order(index, &["virtio_pci", "virtio_blk", "ext4"]),
            [
                "kernel/a/virtio.ko",
                "kernel/a/ring.ko",
                "kernel/a/virtio_pci.ko",
                "kernel/b/virtio_blk.ko"
            ]
        );
    }
}
