//! Makes `src/shapes/libvirt.txt` from libvirt's RELAX NG schemas (Debian: package libvirt-common):
//!
//! ```sh
//! cargo run -p kubevmm-analyser --example shapes -- /usr/share/libvirt/schemas > analyser/src/shapes/libvirt.txt
//! ```

mod relaxng;
mod table;

use std::path::PathBuf;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).context("usage: shapes SCHEMA-DIRECTORY")?;
    print!("{}", table::generate(&directory)?);
    Ok(())
}
