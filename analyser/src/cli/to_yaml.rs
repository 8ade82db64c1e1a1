//! `to-yaml`

use clap::Args;

use super::Usage;
use super::files::{self, Files, Format};
use crate::Tree;

/// Arguments of `to-yaml`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  virsh dumpxml web | kubevmm-analyser to-yaml -
  kubevmm-analyser to-yaml -o json web.xml
  kubevmm-analyser to-yaml /etc/libvirt/qemu --directory yaml/")]
pub struct ToYaml {
    #[command(flatten)]
    files: Files,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

impl ToYaml {
    pub(super) fn run(&self) -> Result<bool, Usage> {
        self.files.convert(files::XML, self.output.extension(), |bytes| {
            let tree = Tree::from_bytes(bytes)?.into_canonical();
            Ok(match self.output {
                Format::Yaml => tree.to_yaml(),
                Format::Json => tree.to_value().to_json_text(),
            })
        })
    }
}
