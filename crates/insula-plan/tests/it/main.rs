//! Stories about decisions: what happens, then what was decided, then that nothing is left to do.

mod adversity;
mod follower;
mod placement;
mod scene;
mod script;
mod stories;
