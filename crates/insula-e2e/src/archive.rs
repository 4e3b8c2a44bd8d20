//! Archives to send: good ones, and ones that attack who unpacks them.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program with which nearly every archive can be made, also those that no packer would make.
const PYTHON: &str = "/usr/bin/python3";

/// What a few lines of Python write to their standard output.
pub fn made_by(script: &str, argument: &Path) -> Result<Vec<u8>> {
    let head = "import gzip, io, sys, tarfile, zipfile\nfrom pathlib import Path\n\
                out, path = io.BytesIO(), sys.argv[1]\n";
    let tail = "\nsys.stdout.buffer.write(out.getvalue())\n";
    let output = Command::new(PYTHON)
        .arg("-c")
        .arg(format!("{head}{script}{tail}"))
        .arg(argument)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {PYTHON}"))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// A `.tar.gz` with the folder under `top/`.
pub fn tar_gz(folder: &Path) -> Result<Vec<u8>> {
    made_by("with tarfile.open(fileobj=out, mode='w:gz') as t: t.add(path, 'top')", folder)
}

/// A `.zip` with the folder under `top/`.
pub fn zip(folder: &Path) -> Result<Vec<u8>> {
    let script = "with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
    for f in sorted(Path(path).rglob('*')):
        if f.is_file(): z.write(f, Path('top') / f.relative_to(path))";
    made_by(script, folder)
}

/// A `.tar.gz` with these entries: name, type letter of Python's, contents or target.
pub fn tar_of(entries: &[(&str, &str, &str)]) -> Result<Vec<u8>> {
    let mut script = String::from("t = tarfile.open(fileobj=out, mode='w:gz')\n");
    for (name, kind, what) in entries {
        script += &format!("i = tarfile.TarInfo({name:?}); i.type = tarfile.{kind}\n");
        script += &match *kind {
            "REGTYPE" => {
                format!("b = {what:?}.encode(); i.size = len(b); t.addfile(i, io.BytesIO(b))\n")
            }
            _ => format!("i.linkname = {what:?}; t.addfile(i)\n"),
        };
    }
    script += "t.close()";
    made_by(&script, Path::new("/"))
}
