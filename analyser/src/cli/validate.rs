//! `validate`

use std::path::PathBuf;

use clap::Args;

use super::files::{self, Report};
use super::{Failure, Usage};
use crate::Tree;

/// Arguments of `validate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubevmm-analyser validate web.yaml
  virsh dumpxml web | kubevmm-analyser validate -")]
pub struct Validate {
    /// Files and directories; - is standard input
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

impl Validate {
    pub(super) fn run(&self) -> Result<bool, Usage> {
        let sources = files::sources(&self.paths, files::ANY)?;
        let mut report = Report::new(sources.len());
        for source in &sources {
            report.add(source, source.read().and_then(|bytes| check(&bytes)));
        }
        Ok(report.finish("valid"))
    }
}

fn check(bytes: &[u8]) -> Result<(), Failure> {
    let tree = if files::is_xml(bytes) { Tree::from_bytes(bytes)? } else { Tree::from_yaml_bytes(bytes)? };
    let found: Vec<String> = tree.into_canonical().unknown().iter().map(ToString::to_string).collect();
    if found.is_empty() { Ok(()) } else { Err(Failure::Found(found)) }
}
