//! Detection over whole sources, folders and archives: everything that looks from outside.

mod detection;
mod folder;
mod show;
