//! Stories about decisions: what happens, then what was decided, then that nothing is left to do.

mod scene;
mod stories;
