//! What the init and the platform agree on: descriptors and the layout of the `exit` file.
//!
//! Compiled into both sides, so it uses nothing but constants. A change of meaning is a new
//! `VERSION`; the platform goes on reading every version that a running init may still write.

/// Version of this contract, stored in every exit file.
pub const VERSION: u8 = 1;

/// The first bytes of an exit file, so that nothing else is ever taken for one.
pub const MAGIC: [u8; 8] = *b"INSULAEX";

/// Size of the record, in bytes. Written in full before the app starts, so that a full disk
/// cannot lose the end of an app.
pub const RECORD_BYTES: usize = 64;

/// Offset of the version, one byte.
pub const AT_VERSION: usize = 8;
/// Offset of the kind, one byte, written last: a record is whole once it is not `KIND_RUNNING`.
pub const AT_KIND: usize = 9;
/// Offset of the value, `i32` little endian: exit code, signal number or errno.
pub const AT_VALUE: usize = 12;
/// Offset of the wall clock in milliseconds since 1970 at the end, `u64` little endian.
pub const AT_ENDED_MS: usize = 16;
/// Offset of the bytes of standard output that the init dropped, `u64` little endian.
pub const AT_DROPPED_OUT: usize = 24;
/// Offset of the bytes of standard error that the init dropped, `u64` little endian.
pub const AT_DROPPED_ERR: usize = 32;

pub const KIND_RUNNING: u8 = 0;
pub const KIND_EXITED: u8 = 1;
pub const KIND_SIGNALED: u8 = 2;
pub const KIND_EXEC_FAILED: u8 = 3;

/// Standard output as the init holds it: read and write, not blocking.
pub const FD_OUT: i32 = 3;
/// Standard error as the init holds it: read and write, not blocking.
pub const FD_ERR: i32 = 4;
/// The exit file, write only.
pub const FD_EXIT: i32 = 5;

/// What the init waits for: HUP, INT, QUIT, USR1, USR2, TERM and WINCH go to the app (some servers take
/// the last as the wish to finish what they have begun), CHLD means that somebody ended. All are
/// blocked before the init is executed: the kernel throws away what a first process neither blocks
/// nor handles, so a signal sent in its first instant would be lost.
pub const SIGNALS: [i32; 8] = [1, 2, 3, 10, 12, 15, 28, 17];
