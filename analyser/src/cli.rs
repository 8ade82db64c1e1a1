//! The command line: files and standard input to the library, and what comes back to files and standard output. A
//! program of its own (`kubevmm-analyser`) and a part of others.

mod diff;
mod fields;
mod files;
mod lift;
mod lifted;
mod lower;
mod to_xml;
mod to_yaml;
mod validate;

use std::process::ExitCode;

use clap::Subcommand;
pub use diff::Diff;
pub use lift::Lift;
pub use lower::Lower;
use thiserror::Error;
pub use to_xml::ToXml;
pub use to_yaml::ToYaml;
pub use validate::Validate;

/// How the programs end, for their help.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  all is well; of diff: no difference
  1  a document cannot be read or written, or validation found something; of diff: differences
  2  wrong usage; of diff: anything else";

/// What can be done with libvirt's documents.
#[derive(Debug, Subcommand)]
pub enum Convert {
    /// XML to YAML or JSON, without loss
    ToYaml(ToYaml),
    /// YAML or JSON to XML
    ToXml(ToXml),
    /// The XML of domains to what the fields of a VirtualMachine say, and the rest
    Lift(Lift),
    /// What lift gives back to XML, without loss
    Lower(Lower),
    /// Say where two domains differ, knowing what libvirt fills in by itself
    Diff(Diff),
    /// Say what libvirt's schemas do not know, of XML, YAML or JSON: elements, attributes and text, not values
    Validate(Validate),
}

/// Does it. Documents go to standard output or to files, messages to standard error; the exit codes are
/// [`EXIT_CODES`].
pub fn run(convert: &Convert) -> ExitCode {
    let done = match convert {
        Convert::ToYaml(command) => command.run().map(code),
        Convert::ToXml(command) => command.run().map(code),
        Convert::Lift(command) => command.run().map(code),
        Convert::Lower(command) => command.run().map(code),
        Convert::Diff(command) => command.run(),
        Convert::Validate(command) => command.run().map(code),
    };
    done.unwrap_or_else(|usage| {
        eprintln!("error: {usage}");
        TROUBLE.into()
    })
}

/// Wrong usage; for diff, whatever keeps it from comparing.
const TROUBLE: u8 = 2;

fn code(all_is_well: bool) -> ExitCode {
    u8::from(!all_is_well).into()
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
    #[error("{from} and {to}: give two files or two directories; only one of two files can be standard input")]
    NoPair { from: String, to: String },
    #[error("{directory}: two files are {name}, with different endings")]
    SameName { directory: String, name: String },
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
