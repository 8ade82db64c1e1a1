//! The commands: what is read, decided by the pure modules, written and printed.

pub(crate) mod convert;
pub(crate) mod describe;
pub(crate) mod domains;
mod drain;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod list;
mod manage;
pub(crate) mod node;
pub(crate) mod power;
pub(crate) mod run;
pub(crate) mod version;

use crate::error::{Error, common_code};

/// Prints an error as the program does.
pub(crate) fn report(error: &Error) {
    eprintln!("error: {}", crate::error::one_line(&error.to_string()));
}

/// The outcome for `total` objects of which some have failed: one failure is itself, several are reported here.
pub(crate) fn outcome(mut failures: Vec<Error>, total: usize) -> Result<(), Error> {
    match failures.len() {
        0 => Ok(()),
        1 if total == 1 => failures.pop().map_or(Ok(()), Err),
        failed => {
            failures.iter().for_each(report);
            Err(Error::Several { failed, total, code: common_code(&failures) })
        }
    }
}
