//! The command line: files and standard input to the library, and what comes back to files and standard output. A
//! program of its own (`kubevmm-analyser`) and a part of others.

mod files;
mod to_xml;
mod to_yaml;
mod validate;

use std::process::ExitCode;

use clap::Subcommand;
use thiserror::Error;
pub use to_xml::ToXml;
pub use to_yaml::ToYaml;
pub use validate::Validate;

/// How the programs end, for their help.
pub const EXIT_CODES: &str =
    "Exit codes: 0 all is well; 1 a document cannot be read or written, or something was found in it; 2 wrong usage.";

/// What can be done with libvirt's documents.
#[derive(Debug, Subcommand)]
pub enum Convert {
    /// XML to YAML or JSON, without loss
    ToYaml(ToYaml),
    /// YAML or JSON to XML
    ToXml(ToXml),
    /// Say what libvirt's schemas do not know, of XML, YAML or JSON: elements, attributes and text, not values
    Validate(Validate),
}

/// Does it. Documents go to standard output or to files, messages to standard error; the exit codes are
/// [`EXIT_CODES`].
pub fn run(convert: &Convert) -> ExitCode {
    let done = match convert {
        Convert::ToYaml(command) => command.run(),
        Convert::ToXml(command) => command.run(),
        Convert::Validate(command) => command.run(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(usage) => {
            eprintln!("error: {usage}");
            ExitCode::from(2)
        }
    }
}

/// Why nothing was done.
#[derive(Debug, Error)]
enum Usage {
    #[error("{files} files: say where the converted ones go, with --directory DIR")]
    NoDirectory { files: usize },
    #[error("{file}: two files would be converted to this one")]
    Twice { file: String },
    #[error("{path}: no file in it ends with .{}", .extensions.join(" or ."))]
    NothingThere { path: String, extensions: &'static [&'static str] },
    #[error("{path}: {source}")]
    Directory { path: String, source: std::io::Error },
    #[error("{path}: neither a file nor a directory")]
    NoFile { path: String },
}

/// What went wrong with one document. The message stands behind its name.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Document(#[from] crate::Error),
    #[error(transparent)]
    Read(std::io::Error),
    #[error("{path}: {source}")]
    Write { path: String, source: std::io::Error },
    #[error("{}", .0.join("\n"))]
    Found(Vec<String>),
}
