//! Does nothing until it is told to end: the only process of a placement pod.
//!
//! The pod stands for a virtual machine in Kubernetes' accounting; QEMU itself runs outside it. So this program is
//! paid for once per virtual machine, and is written to need as little memory as it can: no allocation, no thread, no
//! signal handler. Signals are blocked and then taken one by one, which also works as process 1, where the kernel drops
//! a signal that has the default action unless it is blocked.
//!
//! `SIGTERM` and `SIGINT` end it with status 0. As process 1 of a pod with a shared process namespace it also collects
//! the processes that their parents left behind.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> Result<(), Errno> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    collect_children();
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => collect_children(),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits for every child that has ended: one `SIGCHLD` may stand for several of them.
fn collect_children() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
