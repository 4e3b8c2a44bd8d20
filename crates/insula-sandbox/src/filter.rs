//! Turns a table of verdicts on system calls into a program of the kernel's classic BPF.
//!
//! A binary search over ranges of numbers: some eight comparisons for any call. The kernel runs the
//! program for every number when it is installed, so a chain of one comparison per listed call, as
//! the usual builders make it, costs more than half a millisecond of each start. Which calls are
//! allowed is `seccomp`'s business.

use libc::sock_filter;

/// Offsets in the kernel's `struct seccomp_data`.
const AT_NUMBER: u32 = 0;
const AT_ARCH: u32 = 4;
const AT_ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_NOT_LESS: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// What the kernel does with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    /// Fails with this errno.
    Refuse(i32),
    /// Allowed when all conditions of one of these hold; refused with EPERM otherwise.
    AllowIf(Vec<Vec<Condition>>),
}

/// `argument & mask == value`, on the lower half of the argument: all that are looked at are `int` or
/// flags of 32 bits, whose upper half the kernel ignores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub argument: u8,
    pub mask: u32,
    pub value: u32,
}

/// From this number up to the next range's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub first: u32,
    pub verdict: Verdict,
}

/// `ranges` are in order, and the first begins at 0.
pub(crate) fn assemble(ranges: &[Range]) -> Vec<sock_filter> {
    let mut program = vec![
        plain(LOAD, AT_ARCH),
        jump(JUMP_EQUAL, ARCH, 1, 0),
        plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        plain(LOAD, AT_NUMBER),
    ];
    program.extend(search(ranges));
    program
}

fn search(ranges: &[Range]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![refuse(libc::EPERM)],
        [range] => decide(&range.verdict),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let pivot = high[0].first;
            let (low, high) = (search(low), search(high));
            let mut program = match u8::try_from(low.len()) {
                Ok(skip) => vec![jump(JUMP_NOT_LESS, pivot, skip, 0)],
                // Too far for a conditional jump.
                Err(_) => vec![jump(JUMP_NOT_LESS, pivot, 0, 1), plain(JUMP, low.len() as u32)],
            };
            program.extend(low);
            program.extend(high);
            program
        }
    }
}

fn decide(verdict: &Verdict) -> Vec<sock_filter> {
    match verdict {
        Verdict::Allow => vec![plain(RETURN, libc::SECCOMP_RET_ALLOW)],
        Verdict::Refuse(errno) => vec![refuse(*errno)],
        Verdict::AllowIf(ways) => {
            let mut program: Vec<_> = ways.iter().flat_map(|way| allow_if(way)).collect();
            program.push(refuse(libc::EPERM));
            program
        }
    }
}

/// Falls through to what follows when a condition does not hold.
fn allow_if(conditions: &[Condition]) -> Vec<sock_filter> {
    let mut program = vec![plain(RETURN, libc::SECCOMP_RET_ALLOW)];
    for condition in conditions.iter().rev() {
        let past = u8::try_from(program.len()).expect("a handful of conditions");
        let mut test = vec![
            plain(LOAD, AT_ARGUMENTS + 8 * u32::from(condition.argument)),
            plain(AND, condition.mask),
            jump(JUMP_EQUAL, condition.value, 0, past),
        ];
        test.append(&mut program);
        program = test;
    }
    program
}

fn refuse(errno: i32) -> sock_filter {
    plain(RETURN, libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA))
}

fn plain(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs a program as the kernel does, for a call of this machine's architecture.
    pub(crate) fn verdict(program: &[sock_filter], number: u32, arguments: &[u64]) -> u32 {
        run(program, ARCH, number, arguments)
    }

    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: &[u64]) -> u32 {
        let load = |at: u32| match at {
            AT_NUMBER => number,
            AT_ARCH => arch,
            at => {
                assert!(at >= AT_ARGUMENTS && (at - AT_ARGUMENTS).is_multiple_of(8), "{at}");
                let index = (at - AT_ARGUMENTS) as usize / 8;
                assert!(index < 6, "{at}");
                arguments.get(index).copied().unwrap_or(0) as u32
            }
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                LOAD => value = load(step.k),
                AND => value &= step.k,
                JUMP => at += step.k as usize,
                JUMP_EQUAL => at += usize::from(if value == step.k { step.jt } else { step.jf }),
                JUMP_NOT_LESS => at += usize::from(if value >= step.k { step.jt } else { step.jf }),
                RETURN => return step.k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn errno(number: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | number as u32
    }

    #[test]
    fn every_number_gets_the_verdict_of_its_range() {
        // Enough ranges that conditional jumps do not reach over half of them.
        let ranges: Vec<Range> = (0..1_000)
            .map(|n| Range { first: n * 3, verdict: Verdict::Refuse((n % 100) as i32 + 1) })
            .collect();
        let program = assemble(&ranges);
        for number in 0..3_100 {
            let range = (number / 3).min(999) as i32;
            assert_eq!(verdict(&program, number, &[]), errno(range % 100 + 1), "{number}");
        }
        assert_eq!(verdict(&program, u32::MAX, &[]), errno(100));
    }

    #[test]
    fn conditions_hold_together_and_ways_apart() {
        let is = |argument, value| Condition { argument, mask: u32::MAX, value };
        let none_of = |argument, mask| Condition { argument, mask, value: 0 };
        let verdict_of = Verdict::AllowIf(vec![vec![is(0, 1)], vec![is(0, 2), none_of(5, 0xf0)]]);
        let program = assemble(&[Range { first: 0, verdict: verdict_of }]);
        for (arguments, expected) in [
            ([1, 0, 0, 0, 0, 0xff], ALLOW),
            ([2, 0, 0, 0, 0, 0x0f], ALLOW),
            ([2, 0, 0, 0, 0, 0x10], errno(libc::EPERM)),
            ([3, 0, 0, 0, 0, 0], errno(libc::EPERM)),
            ([0x1_0000_0001, 0, 0, 0, 0, 0], ALLOW),
        ] {
            assert_eq!(verdict(&program, 9, &arguments), expected, "{arguments:?}");
        }
    }

    #[test]
    fn another_architecture_ends_the_process() {
        let program = assemble(&[Range { first: 0, verdict: Verdict::Allow }]);
        assert_eq!(run(&program, 0x4000_0003, 1, &[]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(run(&program, ARCH, 1, &[]), ALLOW);
    }
}
