//! The committed table of shapes is what the generator makes of libvirt's schemas.
#![allow(missing_docs, clippy::unwrap_used)]

mod apt;
#[path = "../examples/shapes/relaxng.rs"]
mod relaxng;
#[path = "../examples/shapes/table.rs"]
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use apt::Apt;

/// The version whose schemas the table is made of.
const VERSION: &str = "11.3.0";

#[test]
fn is_up_to_date() {
    let generated = table::generate(&schemas()).unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/shapes/libvirt.txt");
    let is_same = std::fs::read_to_string(&committed).unwrap() == generated;
    assert!(is_same, "{} is stale; examples/shapes/main.rs says how to make it", committed.display());
}

/// The schemas: from `$KUBEVMM_SCHEMAS`, else those of an installed libvirt of the right version, else from Debian's
/// package, which is unpacked and not installed.
fn schemas() -> PathBuf {
    if let Some(directory) = std::env::var_os("KUBEVMM_SCHEMAS") {
        return directory.into();
    }
    let installed = Command::new("dpkg-query").args(["-W", "-f=${Version}", "libvirt-common"]).output().unwrap();
    if String::from_utf8_lossy(&installed.stdout).starts_with(VERSION) {
        return "/usr/share/libvirt/schemas".into();
    }
    download()
}

fn download() -> PathBuf {
    let apt = Apt::new("schemas", "deb");
    let root = apt.directory.join("root");
    if !root.is_dir() {
        let is_there = apt.get(&["update"]) && apt.get(&["download", "libvirt-common"]);
        assert!(
            is_there,
            "no libvirt-common; set KUBEVMM_SCHEMAS to a directory with the schemas of libvirt {VERSION}"
        );
        let package = apt.find(".deb").unwrap();
        assert!(package.display().to_string().contains(VERSION), "{}: expected version {VERSION}", package.display());
        let new = apt.directory.join("root.new");
        assert!(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&new).status().unwrap().success());
        std::fs::rename(new, &root).unwrap();
    }
    root.join("usr/share/libvirt/schemas")
}
