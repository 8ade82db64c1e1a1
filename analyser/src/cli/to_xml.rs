//! `to-xml`

use clap::Args;

use super::Usage;
use super::files::{self, Files};
use crate::Tree;

/// Arguments of `to-xml`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubevmm-analyser to-xml web.yaml > web.xml
  kubevmm-analyser to-yaml web.xml | sed s/vda/sda/ | kubevmm-analyser to-xml -
  kubevmm-analyser to-xml yaml/ --directory xml/")]
pub struct ToXml {
    #[command(flatten)]
    files: Files,
}

impl ToXml {
    pub(super) fn run(&self) -> Result<bool, Usage> {
        self.files.convert(files::YAML, "xml", |bytes| Ok(Tree::from_yaml_bytes(bytes)?.to_xml()))
    }
}
