//! Whether the machine was started anew since we last looked: then no process of ours is left, and
//! what was not synced may have holes.

use std::io;
use std::path::Path;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Of this boot of the machine.
pub fn id() -> io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// Compares with what `file` remembers of the last time, and remembers this one.
pub fn changed(file: &Path) -> io::Result<bool> {
    let now = std::fs::read_to_string(BOOT_ID)?;
    let before = std::fs::read_to_string(file).unwrap_or_default();
    if before == now {
        return Ok(false);
    }
    std::fs::write(file, &now)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_boot_changes_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("boot-id");
        assert!(super::changed(&file).unwrap());
        assert!(!super::changed(&file).unwrap());
        std::fs::write(&file, "another\n").unwrap();
        assert!(super::changed(&file).unwrap());
    }
}
