//! The logs of an app never hold it up, whoever reads them, and do not end with their reader.

use std::io::Read;

use insula_sandbox::{ExitCause, Fate};

use crate::bed::{Bed, eventually, needs_root, read_line, read_to_end, readable};

#[test]
fn an_app_that_nobody_reads_goes_on_and_the_loss_is_counted() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    // Far more than a pipe holds, into both.
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero >&2; echo; echo last; exit 5";
    let record = bed.runtime.launch(&bed.shell("test", script)).unwrap();
    eventually("it ends by itself", || {
        matches!(bed.runtime.fate(&record).unwrap(), Fate::Ended(_))
    });
    let outcome = bed.finish(&record);
    assert!(outcome.out.ends_with("\nlast\n"), "the newest lines are kept");
    let Fate::Ended(exit) = bed.runtime.fate(&record).unwrap() else { panic!("ended") };
    assert_eq!(exit.cause, ExitCause::Exited { code: 5 });
    let kept_max = 2 * 256 * 1024;
    assert!(exit.dropped_bytes >= 4_000_000 - kept_max, "{}", exit.dropped_bytes);
    assert!(exit.dropped_bytes < 4_000_006, "{}", exit.dropped_bytes);
    assert_eq!(bed.runtime.dropped_bytes(&record).unwrap(), exit.dropped_bytes);
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn with_a_reader_not_a_byte_is_lost() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run_shell("head -c 5000000 /dev/zero | tr '\\0' x");
    assert_eq!(outcome.out.len(), 5_000_000);
    let Fate::Ended(exit) = outcome.fate else { panic!("ended") };
    assert_eq!(exit.dropped_bytes, 0);
}

#[test]
fn a_reader_may_go_and_another_come() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let script = "trap 'echo again' USR1; echo first; while :; do sleep 0.01; done";
    let record = bed.runtime.launch(&bed.shell("test", script)).unwrap();
    let path = bed.runtime.dir(&record.id).out();
    assert_eq!(read_line(&mut bed.reader(&path)), "first");
    // The first reader is gone here; the app must not be told by SIGPIPE.
    bed.runtime.signal(&record, insula_sandbox::Signal::USR1).unwrap();
    let mut second = bed.reader(&path);
    assert_eq!(read_line(&mut second), "again");
    assert_eq!(bed.runtime.fate(&record).unwrap(), Fate::Running);
    bed.runtime.destroy(&record).unwrap();
    assert!(readable(&second));
    assert_eq!(second.read(&mut [0; 1]).unwrap(), 0, "the end of the sandbox ends the log");
}

#[test]
fn the_last_words_wait_for_a_late_reader() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let record = bed.runtime.launch(&bed.shell("test", "echo why; exit 1")).unwrap();
    eventually("the end is written down", || {
        matches!(bed.runtime.fate(&record).unwrap(), Fate::Ended(_))
    });
    assert_eq!(read_to_end(bed.reader(&bed.runtime.dir(&record.id).out())), "why\n");
    bed.await_end(&record);
    bed.runtime.destroy(&record).unwrap();
}
