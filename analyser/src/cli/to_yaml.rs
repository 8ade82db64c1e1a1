//! `to-yaml`

use clap::{Args, ValueEnum};

use super::Usage;
use super::files::{self, Files};
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

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

impl ToYaml {
    pub(super) fn run(&self) -> Result<bool, Usage> {
        let read = |bytes: &[u8]| Ok(Tree::from_bytes(bytes)?.into_canonical());
        match self.output {
            Format::Yaml => self.files.convert(files::XML, "yaml", |bytes| Ok(read(bytes)?.to_yaml())),
            Format::Json => self.files.convert(files::XML, "json", |bytes| Ok(read(bytes)?.to_value().to_json_text())),
        }
    }
}
