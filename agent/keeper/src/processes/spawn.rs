//! fork and exec by hand: the child waits until its pid is in the journal, and is told its own pid.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libc::c_char;
use thiserror::Error;

use super::Account;
use super::binds::{self, Binds};

/// Why a process could not be forked.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// A word of the command or the environment holds a NUL byte.
    #[error("cannot start a process: {what} holds a NUL byte")]
    Nul {
        /// Which.
        what: &'static str,
    },
    /// fork or a pipe was refused.
    #[error("cannot start a process")]
    System {
        /// What the system said.
        source: io::Error,
    },
}

/// Everything a child is given.
#[derive(Debug)]
pub struct Launch {
    /// The program's path.
    pub program: CString,
    /// Its arguments, the first included.
    pub arguments: Vec<CString>,
    /// `KEY=VALUE`, without LISTEN_PID.
    pub environment: Vec<CString>,
    /// Whether LISTEN_PID is set.
    pub listen_pid: bool,
    /// Whether WATCHDOG_PID is set.
    pub watchdog_pid: bool,
    /// Its working folder.
    pub folder: CString,
    /// What becomes descriptor 0, 1, 2, 3, ...
    pub descriptors: Vec<RawFd>,
    /// Soft and hard limit of open files, when set.
    pub nofile: Option<libc::rlimit>,
    /// Limit of address space in bytes, when set.
    pub memory: Option<u64>,
    /// Whether it can never gain privileges, nor anything it starts.
    pub no_new_privs: bool,
    /// Whom it becomes, when that is another user.
    pub account: Option<Account>,
    /// Whether the keeper hears of its binds.
    pub binds: Binds,
    /// The control group (v2) that it is born in, where the kernel can do that; a folder.
    pub group: Option<OwnedFd>,
}

/// A forked child that waits.
#[derive(Debug)]
pub struct Child {
    /// Its process id; also its process group.
    pub pid: u32,
    /// A byte written here lets it go; closing it ends it.
    pub go: OwnedFd,
    /// Closed when the program runs; before that, the report of what failed.
    pub failure: OwnedFd,
    /// Where its binds are told, when that was asked for; see [`super::binds::receive`].
    pub binds: Option<OwnedFd>,
    /// Whether it was born in [`Launch::group`].
    pub grouped: bool,
}

/// The step that failed in the child, and why.
#[derive(Debug)]
pub struct StartFailure {
    /// For people: what was being done.
    pub step: &'static str,
    /// What the system said.
    pub error: io::Error,
}

/// The step of a failure to run the program itself.
pub const RUN: &str = "run the program";

const STEPS: [&str; 9] = [
    "wait for the keeper",
    "hand over descriptors",
    "set limits",
    "become its user",
    "enter the release's folder",
    RUN,
    "leave the keeper's group",
    "have its binds told to the keeper (strategy \"listen-fds\" or \"stop-start\" does without)",
    "give up new privileges",
];

/// What the child touches, laid out before the fork: after it, nothing may be allocated.
struct Prepared {
    program: *const c_char,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// Where the child writes its pid, the bytes behind `LISTEN_PID=` and `WATCHDOG_PID=`.
    pid_digits: [*mut u8; 2],
    folder: *const c_char,
    /// Numbers above all targets, so that no source is overwritten before it was moved.
    safe_base: i32,
    descriptors: Vec<RawFd>,
    nofile: Option<libc::rlimit>,
    memory: Option<libc::rlimit>,
    no_new_privs: bool,
    ids: Option<(u32, u32)>,
    groups: Vec<u32>,
    go: RawFd,
    failure: RawFd,
    /// Where the child says how its binds are told; below 0 where nobody wants to know.
    news: RawFd,
    binds: Binds,
}

/// Forks the child. It does nothing before a byte comes through [`Child::go`], and ends when that is closed: a keeper that
/// dies before the pid is in its journal leaves nothing behind.
///
/// # Errors
/// [`SpawnError::System`]; no process is left then.
pub fn fork(launch: &Launch) -> Result<Child, SpawnError> {
    let system = |source: rustix::io::Errno| SpawnError::System {
        source: source.into(),
    };
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (go_reader, go) = rustix::pipe::pipe_with(flags).map_err(system)?;
    let (failure, failure_writer) = rustix::pipe::pipe_with(flags).map_err(system)?;
    let (news, news_writer) = binds::channel(launch.binds).map_err(system)?.unzip();
    let mut listen_pid = *b"LISTEN_PID=\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut watchdog_pid = *b"WATCHDOG_PID=\0\0\0\0\0\0\0\0\0\0\0\0";
    let pointers = |words: &[CString]| words.iter().map(|word| word.as_ptr()).collect::<Vec<_>>();
    let mut arguments = pointers(&launch.arguments);
    arguments.push(std::ptr::null());
    let mut environment = pointers(&launch.environment);
    if launch.listen_pid {
        environment.push(listen_pid.as_ptr().cast());
    }
    if launch.watchdog_pid {
        environment.push(watchdog_pid.as_ptr().cast());
    }
    environment.push(std::ptr::null());
    let prepared = Prepared {
        program: launch.program.as_ptr(),
        arguments,
        environment,
        pid_digits: [listen_pid[11..].as_mut_ptr(), watchdog_pid[13..].as_mut_ptr()],
        folder: launch.folder.as_ptr(),
        safe_base: launch.descriptors.len() as i32 + 16,
        descriptors: launch.descriptors.clone(),
        nofile: launch.nofile,
        memory: launch.memory.map(|bytes| libc::rlimit {
            rlim_cur: bytes,
            rlim_max: bytes,
        }),
        no_new_privs: launch.no_new_privs,
        ids: launch.account.as_ref().map(|account| (account.uid, account.gid)),
        groups: launch
            .account
            .as_ref()
            .map(|account| account.groups.clone())
            .unwrap_or_default(),
        go: go_reader.as_raw_fd(),
        failure: failure_writer.as_raw_fd(),
        news: news_writer.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        binds: launch.binds,
    };
    let born = launch.group.as_ref().and_then(fork_into);
    let grouped = born.is_some();
    // SAFETY: the keeper has one thread, and the child calls only async-signal-safe functions before it runs another
    // program or exits.
    #[allow(unsafe_code, reason = "fork has no safe face")]
    let pid = born.unwrap_or_else(|| unsafe { libc::fork() });
    match pid {
        -1 => Err(SpawnError::System {
            source: io::Error::last_os_error(),
        }),
        0 => run_child(prepared),
        pid => {
            // Done by both sides, so that it holds whoever comes first.
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::setpgid(Some(pid), Some(pid));
            }
            Ok(Child {
                pid: pid.cast_unsigned(),
                go,
                failure,
                binds: news,
                grouped,
            })
        }
    }
}

/// Forks a child that is born in a control group; none where that cannot be. To move it there after its birth the kernel
/// waits until no process of the whole machine is being forked, which takes tens of milliseconds of a switch.
fn fork_into(group: &OwnedFd) -> Option<libc::pid_t> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // The kernel's clone_args in its second version: flags first, the child's end signal fifth, the group last.
    let mut words = [0_u64; 11];
    words[0] = CLONE_INTO_CGROUP;
    words[4] = libc::SIGCHLD.cast_unsigned().into();
    words[10] = group.as_raw_fd().cast_unsigned().into();
    // SAFETY: as fork, with a copy of the memory and of the one thread; the words live through the call and have the size
    // that is told. What the C library does around a fork is for threads, and for locks that nobody holds.
    #[allow(unsafe_code, reason = "clone3 has no safe face")]
    let pid = unsafe { libc::syscall(libc::SYS_clone3, words.as_ptr(), size_of_val(&words)) };
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid >= 0)?;
    if pid > 0 && is_doomed(pid) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
        return None;
    }
    Some(pid)
}

/// Whether a newborn was killed at its birth: kernels that tell by a count whether a group was killed while something was born
/// in it compare it with another group's, so nothing can be born where something was killed before.
fn is_doomed(pid: libc::pid_t) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut lines = status.lines();
    lines.any(|line| match line.split_once(":\t") {
        Some(("State", state)) => state.starts_with(['Z', 'X']),
        Some(("SigPnd" | "ShdPnd", set)) => {
            u64::from_str_radix(set, 16).is_ok_and(|pending| pending & KILL != 0)
        }
        _ => false,
    })
}

/// Reads what the child reported through [`Child::failure`] at its end of file: nothing means that its program runs.
#[must_use]
pub fn read_failure(failure: OwnedFd) -> Option<StartFailure> {
    let mut report = [0_u8; 5];
    std::fs::File::from(failure).read_exact(&mut report).ok()?;
    let errno = i32::from_le_bytes([report[1], report[2], report[3], report[4]]);
    let step = STEPS.get(usize::from(report[0])).copied().unwrap_or("start");
    Some(StartFailure {
        step,
        error: io::Error::from_raw_os_error(errno),
    })
}

/// The child's whole life before its program. Nothing here allocates, locks or unwinds.
fn run_child(mut prepared: Prepared) -> ! {
    // SAFETY: all pointers in `prepared` lead to memory of the parent's that lives on in this copy; only async-signal-safe
    // functions are called.
    #[allow(unsafe_code, reason = "between fork and exec there is only libc")]
    unsafe {
        let step = become_program(&mut prepared);
        let errno = *libc::__errno_location();
        let mut report = [step, 0, 0, 0, 0];
        report[1..].copy_from_slice(&errno.to_le_bytes());
        libc::write(prepared.failure, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Returns the number of the step that failed; never returns when all went well.
///
/// # Safety
/// Only in a freshly forked child, with `prepared`'s pointers alive.
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
unsafe fn become_program(prepared: &mut Prepared) -> u8 {
    // SAFETY: see the function's contract; every call is async-signal-safe and gets valid pointers and sizes.
    unsafe {
        if libc::setpgid(0, 0) != 0 {
            return 6;
        }
        // First of all: nothing of the keeper's, its lock and its spare listeners least of all, may live on in here.
        if !move_descriptors(prepared) {
            return 1;
        }
        let mut byte = 0_u8;
        loop {
            match libc::read(prepared.go, std::ptr::from_mut(&mut byte).cast(), 1) {
                1 => break,
                -1 if *libc::__errno_location() == libc::EINTR => {}
                _ => libc::_exit(0),
            }
        }
        reset_signals();
        if !limit(prepared) {
            return 2;
        }
        // Before it becomes another user: root may do this without giving up the privileges of what it runs.
        if prepared.news >= 0 && !binds::tell(prepared.news) && prepared.binds == Binds::Joined {
            return 7;
        }
        let step = settle(prepared);
        if step != 0 {
            return step;
        }
        for digits in prepared.pid_digits {
            write_pid(digits, libc::getpid().cast_unsigned());
        }
        execute(prepared)
    }
}

/// Becomes its user, gives up new privileges, and enters its folder; 0, or the number of the step that failed.
///
/// # Safety
/// Only in a process that becomes another program, with `prepared`'s pointers alive.
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
unsafe fn settle(prepared: &Prepared) -> u8 {
    // SAFETY: see the function's contract; every call is async-signal-safe and gets valid pointers and sizes.
    unsafe {
        if let Some((uid, gid)) = prepared.ids {
            let groups = (prepared.groups.len(), prepared.groups.as_ptr());
            if libc::setgroups(groups.0, groups.1) != 0 || libc::setgid(gid) != 0 || libc::setuid(uid) != 0 {
                return 3;
            }
        }
        if prepared.no_new_privs && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return 8;
        }
        libc::umask(0o022);
        if libc::chdir(prepared.folder) != 0 {
            return 4;
        }
        0
    }
}

/// Becomes the program; 5, the number of that step, when it cannot.
///
/// # Safety
/// As of [`settle`].
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
unsafe fn execute(prepared: &Prepared) -> u8 {
    // SAFETY: all three are ended by NUL and live.
    unsafe {
        libc::execve(
            prepared.program,
            prepared.arguments.as_ptr(),
            prepared.environment.as_ptr(),
        );
    }
    5
}

/// This process itself becomes the program, with the descriptors and in the process group it has; returns when it cannot.
pub(super) fn replace(launch: &Launch) -> StartFailure {
    let pointers = |words: &[CString]| {
        let words = words.iter().map(|word| word.as_ptr());
        words.chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let account = launch.account.as_ref();
    let prepared = Prepared {
        program: launch.program.as_ptr(),
        arguments: pointers(&launch.arguments),
        environment: pointers(&launch.environment),
        pid_digits: [std::ptr::null_mut(); 2],
        folder: launch.folder.as_ptr(),
        safe_base: 0,
        descriptors: Vec::new(),
        nofile: launch.nofile,
        memory: launch.memory.map(|bytes| libc::rlimit {
            rlim_cur: bytes,
            rlim_max: bytes,
        }),
        no_new_privs: launch.no_new_privs,
        ids: account.map(|account| (account.uid, account.gid)),
        groups: account.map(|account| account.groups.clone()).unwrap_or_default(),
        go: -1,
        failure: -1,
        news: -1,
        binds: Binds::Untold,
    };
    // SAFETY: the pointers lead into `launch`, which outlives this; signals are only set back to what a program expects.
    #[allow(unsafe_code, reason = "users, limits and exec have no safe face")]
    let step = unsafe {
        reset_signals();
        match limit(&prepared) {
            false => 2,
            true => match settle(&prepared) {
                0 => execute(&prepared),
                step => step,
            },
        }
    };
    StartFailure {
        error: io::Error::last_os_error(),
        step: STEPS.get(usize::from(step)).copied().unwrap_or("start"),
    }
}

/// Sets the limits; false when the kernel refuses one.
///
/// # Safety
/// Only in a process that becomes another program.
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
unsafe fn limit(prepared: &Prepared) -> bool {
    let limits = [
        (libc::RLIMIT_NOFILE, prepared.nofile),
        (libc::RLIMIT_AS, prepared.memory),
    ];
    for (which, limit) in limits {
        // SAFETY: setrlimit reads one rlimit.
        if limit.is_some_and(|limit| unsafe { libc::setrlimit(which, &raw const limit) } != 0) {
            return false;
        }
    }
    true
}

/// # Safety
/// Only in a process that becomes another program.
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
unsafe fn reset_signals() {
    // SAFETY: a kernel sigaction of zeros asks for the default; 8 is the size of its signal set, and numbers that cannot be
    // set are refused. libc's own call would refuse 32 and 33 too. The set below is made by sigemptyset before it is used.
    unsafe {
        let default = [0_u64; 4];
        for signal in 1..65 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8,
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Puts descriptor `n` of the list at number `n`, the pipes behind them, and closes every other.
///
/// # Safety
/// Only in a freshly forked child.
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
unsafe fn move_descriptors(prepared: &mut Prepared) -> bool {
    let count = prepared.descriptors.len() as i32;
    // SAFETY: plain descriptor calls on numbers this process owns.
    unsafe {
        for index in 0..prepared.descriptors.len() {
            let safe = libc::fcntl(
                prepared.descriptors[index],
                libc::F_DUPFD_CLOEXEC,
                prepared.safe_base,
            );
            if safe < 0 {
                return false;
            }
            prepared.descriptors[index] = safe;
        }
        for pipe in [&mut prepared.go, &mut prepared.failure, &mut prepared.news] {
            if *pipe < 0 {
                continue;
            }
            let safe = libc::fcntl(*pipe, libc::F_DUPFD_CLOEXEC, prepared.safe_base);
            if safe < 0 {
                return false;
            }
            *pipe = safe;
        }
        for index in 0..prepared.descriptors.len() {
            if libc::dup2(prepared.descriptors[index], index as i32) < 0 {
                return false;
            }
        }
        let pipes = [&mut prepared.go, &mut prepared.failure, &mut prepared.news];
        for (pipe, number) in pipes.into_iter().zip(count..) {
            if *pipe < 0 {
                continue;
            }
            if libc::dup3(*pipe, number, libc::O_CLOEXEC) < 0 {
                return false;
            }
            *pipe = number;
        }
        let pipes = if prepared.news < 0 { 2 } else { 3 };
        let first = (count + pipes).cast_unsigned();
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) == 0
    }
}

/// Writes decimal digits and a NUL; `to` has room for 11 bytes.
///
/// # Safety
/// `to` must point at 11 writable bytes.
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
unsafe fn write_pid(to: *mut u8, pid: u32) {
    let mut digits = [0_u8; 11];
    let mut at = digits.len();
    let mut rest = pid;
    while at > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let length = digits.len() - at;
    // SAFETY: at most 10 digits of a u32 and the NUL fit into the 11 bytes of the contract.
    unsafe {
        std::ptr::copy_nonoverlapping(digits.as_ptr().add(at), to, length);
        to.add(length).write(0);
    }
}
