//! Runs the program and looks at it from outside, as the kubelet does.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::libc::SYS_rt_sigtimedwait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PAUSE: &str = env!("CARGO_BIN_EXE_kubevmm-pause");

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program, killed when the test is over, however it ends.
struct Pause(Child);

impl Drop for Pause {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mut command: Command) -> Pause {
    let pause = Pause(command.spawn().unwrap());
    let system_call = format!("/proc/{}/syscall", pause.0.id());
    let wait_for_signal = format!("{} ", SYS_rt_sigtimedwait);
    eventually("it waits for signals", || fs::read_to_string(&system_call).unwrap().starts_with(&wait_for_signal));
    pause
}

fn send(pause: &Pause, signal: Signal) {
    kill(Pid::from_raw(pause.0.id().try_into().unwrap()), signal).unwrap();
}

#[test]
fn ends_with_status_0_when_asked_to() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut pause = start(Command::new(PAUSE));
        assert!(pause.0.try_wait().unwrap().is_none(), "runs until it is asked to end");
        send(&pause, signal);
        let status = pause.0.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{signal}");
    }
}

#[test]
fn collects_its_children() {
    // The shell's background job becomes a child of the program that the shell turns into.
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 0.2 & true & exec \"$0\"", PAUSE]);
    let mut pause = start(command);
    let children = format!("/proc/{0}/task/{0}/children", pause.0.id());
    eventually("no child is left, not even a zombie", || fs::read_to_string(&children).unwrap().trim().is_empty());
    send(&pause, Signal::SIGTERM);
    assert_eq!(pause.0.wait().unwrap().code(), Some(0));
}
