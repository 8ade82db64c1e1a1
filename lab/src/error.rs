//! What can go wrong in the lab, and what to do about it.

use std::{io, path::PathBuf, process::ExitStatus};

/// A result of the lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is no host's.
    #[error("{0:?} is not a host: hosts are cp, h1, h2, .. h32")]
    UnknownHost(String),
    /// A name that is no daemon's, or a daemon that this host does not have.
    #[error("{daemon:?} is not a daemon of {host}: {known}")]
    UnknownDaemon {
        /// What was asked for.
        daemon: String,
        /// On which host.
        host: String,
        /// What there is.
        known: String,
    },
    /// An option with a value that cannot work.
    #[error("option {option}: {reason}")]
    Option {
        /// The option's name on the command line.
        option: &'static str,
        /// What is wrong and what would do.
        reason: String,
    },
    /// There is no lab where one was expected.
    #[error("no lab in {0}: start one with `lab up`, or name its directory with --dir or LAB_DIR")]
    NoLab(PathBuf),
    /// The lab needs rights that the caller lacks.
    #[error("the lab makes namespaces and mounts: run it as root")]
    NotRoot,
    /// The kernel's limit is reached; a kubelet would end at once.
    #[error(
        "the hosts need {0} inotify instances and the machine has fewer left (fs.inotify.max_user_instances): end \
         another lab, or raise the limit with `sysctl fs.inotify.max_user_instances=1024`"
    )]
    Inotify(usize),
    /// The host is not running.
    #[error("host {0} is down: boot it with `lab start {0}`")]
    HostDown(String),
    /// The host is running already.
    #[error("host {0} is up already")]
    HostUp(String),
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A system call failed that is not about one file.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source} (is it installed? `make deps` installs what the lab needs)")]
    Spawn {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` ended with {status}: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// Something did not become true in time.
    #[error("waited {seconds} s in vain until {what}; look into {log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// The log that tells more.
        log: PathBuf,
    },
    /// A program answered something that cannot be understood.
    #[error("{what}: {reason}")]
    Unexpected {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("certificate {name}: {source}")]
    Certificate {
        /// Whose certificate.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
}

/// Puts the file's name and the action into an [`io::Error`].
pub(crate) trait FileContext<T> {
    fn file(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> FileContext<T> for io::Result<T> {
    fn file(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File { action, path: path.into(), source })
    }
}

impl<T> FileContext<T> for nix::Result<T> {
    fn file(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(io::Error::from).file(action, path)
    }
}
