//! Running programs, and waiting.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Result};

/// The PATH of everything that the lab runs.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with a small, known environment: above all without the caller's proxies.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    if let Some(term) = std::env::var_os("TERM") {
        command.env("TERM", term);
    }
    command
}

/// Runs a program to its end; its output if it succeeded.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let output = command.output().map_err(|source| spawn_error(command, source))?;
    check(command, output)
}

/// Runs a program to its end; what it wrote to standard output if it succeeded.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?.stdout).into_owned())
}

/// Runs a program to its end with `input` on its standard input.
pub(crate) fn feed(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| spawn_error(command, source))?;
    let mut pipe = child.stdin.take();
    let output = thread::scope(|scope| {
        // A program that ends early closes the pipe; why, its exit status and error output tell.
        scope.spawn(move || pipe.as_mut().map(|pipe| pipe.write_all(input)));
        child.wait_with_output()
    })
    .map_err(|source| spawn_error(command, source))?;
    check(command, output)
}

fn check(command: &Command, output: Output) -> Result<Output> {
    if output.status.success() {
        return Ok(output);
    }
    let mut stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if stderr.is_empty() {
        stderr = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    Err(Error::Command { command: line(command), status: output.status, stderr })
}

pub(crate) fn spawn_error(command: &Command, source: std::io::Error) -> Error {
    Error::Spawn { program: command.get_program().to_string_lossy().into_owned(), source }
}

/// The command line, as a person would want to see it: without what leads into a host.
fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let after = |from: usize, end: &str| words[from..].iter().position(|word| word == end).map(|at| from + at);
    let inner = after(0, "nsenter").and_then(|at| after(at, "--")).map_or(0, |at| at + 1);
    words[inner..].join(" ")
}

/// Asks until the answer is yes.
///
/// # Errors
/// [`Error::Timeout`] with `what` and `log` when that takes longer than `limit`.
pub(crate) fn wait_until(what: &str, log: &Path, limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(10);
    while !done() {
        if Instant::now() > deadline {
            return Err(Error::Timeout { what: what.to_owned(), seconds: limit.as_secs(), log: log.to_owned() });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_the_command_and_its_error_output() {
        let error = text(program("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("exit status: 3") && error.ends_with("why"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = text(&mut program("no-such-program")).unwrap_err().to_string();
        assert!(error.starts_with("cannot run no-such-program"), "{error}");
    }

    #[test]
    fn input_reaches_the_program_and_one_that_reads_none_is_no_error() {
        assert_eq!(feed(&mut program("cat"), b"abc").unwrap().stdout, b"abc");
        feed(&mut program("true"), &vec![0; 1 << 20]).unwrap();
    }

    #[test]
    fn waiting_ends_with_the_log_named() {
        let error = wait_until("pigs fly", Path::new("/var/log/pigs"), Duration::ZERO, || false).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain until pigs fly; look into /var/log/pigs");
    }
}
