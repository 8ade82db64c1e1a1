//! `lift`

use clap::Args;

use super::files::{self, Files, Format};
use super::{Usage, lifted};
use crate::Tree;

/// Arguments of `lift`.
#[derive(Args, Debug)]
#[command(after_help = "\
The document has four parts:
  identity  name, uuid, and our mark of ownership
  host      what the host decides: accelerator, architecture, emulator
  spec      what the fields of a VirtualMachine say; where disks and networks lie
  domain    what no field can say; it lies over the rest

Take the XML of `virsh dumpxml --inactive`.

Examples:
  virsh dumpxml --inactive web | kubevmm-analyser lift -
  kubevmm-analyser lift -o json web.xml
  kubevmm-analyser lift /etc/libvirt/qemu --directory lifted/")]
pub struct Lift {
    #[command(flatten)]
    files: Files,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

impl Lift {
    pub(super) fn run(&self) -> Result<bool, Usage> {
        self.files.convert(files::XML, self.output.extension(), |bytes| {
            Ok(self.output.text(&lifted::document(&Tree::from_bytes(bytes)?)?))
        })
    }
}
