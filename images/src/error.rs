//! What can go wrong while images are built.

use std::path::PathBuf;

/// Says what failed, on which file or program, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the list of images is not valid: {0}")]
    ListSyntax(#[from] serde_yaml_ng::Error),
    #[error("the list of images is not valid: {0}")]
    List(String),
    #[error("no image is named {name}; there are: {known}")]
    UnknownImage { name: String, known: String },
    #[error("registry {0:?}: give a host and an optional path, such as registry.example.org/team, without a scheme")]
    Registry(String),
    #[error("cannot run {program}: {source}; `make deps` installs what is missing")]
    Spawn { program: String, source: std::io::Error },
    #[error("{program} failed ({status}): {stderr}")]
    Program { program: String, status: std::process::ExitStatus, stderr: String },
    #[error("this machine's apt has no source for Debian {suite}, main; add one and run `apt-get update`")]
    NoAptSource { suite: String },
    #[error("nothing in the packages matches {pattern}, which the file {path} is made of")]
    NothingToConcatenate { path: String, pattern: String },
    #[error("images are not built for the architecture {0}")]
    Architecture(&'static str),
    #[error("{link} is a hard link to {target}, which does not stand before it in the archive")]
    HardLink { link: String, target: String },
}

/// Attaches the path to an I/O error.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}
