//! `lower`

use clap::Args;

use super::files::{self, Files};
use super::{Usage, lifted};
use crate::value::Value;
use crate::xml::utf8;

/// Arguments of `lower`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubevmm-analyser lower web.yaml > web.xml
  kubevmm-analyser lift web.xml | sed s/2Gi/4Gi/ | kubevmm-analyser lower -
  kubevmm-analyser lower lifted/ --directory xml/")]
pub struct Lower {
    #[command(flatten)]
    files: Files,
}

impl Lower {
    pub(super) fn run(&self) -> Result<bool, Usage> {
        self.files.convert(files::YAML, "xml", |bytes| Ok(lifted::domain(&Value::from_yaml(utf8(bytes)?)?)?.to_xml()))
    }
}
