//! Detection over whole sources, folders and archives: everything that looks from outside.

mod archive;
mod detection;
mod folder;
mod layer;
mod random;
mod show;
