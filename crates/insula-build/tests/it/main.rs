//! Detection over whole sources, folders and archives: everything that looks from outside.

mod detection;
mod show;
