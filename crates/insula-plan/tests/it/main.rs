//! Stories about decisions: what happens, then what was decided, then that nothing is left to do.

mod adversity;
mod chance;
mod drains;
mod due;
mod follower;
mod loss;
mod needless;
mod placement;
mod rest;
mod rolling;
mod scene;
mod script;
mod single;
mod stories;
mod tales;
