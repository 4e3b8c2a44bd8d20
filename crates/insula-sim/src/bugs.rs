//! Mistakes that people really make, to be planted into the real code one at a time: each must be
//! found, or the simulation has no teeth.

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Bug {
    pub name: &'static str,
    /// From the root of the repository.
    pub file: &'static str,
    /// What stands there, exactly once.
    pub text: &'static str,
    pub planted: &'static str,
    /// What finds it, by the word of the property.
    pub property: &'static str,
    /// Seeds within which it has to be found.
    pub budget: u64,
}

pub const BUGS: &[Bug] = &[];
