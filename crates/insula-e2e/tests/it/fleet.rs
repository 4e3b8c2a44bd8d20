//! Several machines: real processes in network namespaces, hurt in every way we could think of.

use insula_e2e::fleet::ground;

/// Whether fleets can be tested on this machine; says so loudly if not.
pub fn can_lay_ground() -> bool {
    match ground::missing() {
        None => true,
        Some(why) => {
            assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "cannot run: {why}");
            eprintln!("SKIPPED: {why}");
            false
        }
    }
}
