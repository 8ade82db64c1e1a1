//! The committed table of shapes is what the generator makes of libvirt's schemas.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../examples/shapes/relaxng.rs"]
mod relaxng;
#[path = "../examples/shapes/table.rs"]
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Fetches libvirt-common with a configuration of apt of its own: the machine's sources and packages stay as they are.
fn download() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schemas");
    let schemas = target.join("root/usr/share/libvirt/schemas");
    if schemas.is_dir() {
        return schemas;
    }
    std::fs::create_dir_all(target.join("lists/partial")).unwrap();
    std::fs::create_dir_all(target.join("cache/archives/partial")).unwrap();
    std::fs::write(target.join("sources.list"), backports()).unwrap();
    let at = |name: &str| target.join(name).display().to_string();
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&target).arg("-qq").args(["-o", "APT::Sandbox::User=root"]);
        command.arg("-o").arg(format!("Dir::Etc::SourceList={}", at("sources.list")));
        command.arg("-o").arg("Dir::Etc::SourceParts=/dev/null");
        command.arg("-o").arg(format!("Dir::State::Lists={}", at("lists")));
        command.arg("-o").arg(format!("Dir::Cache={}", at("cache")));
        run(command.args(words));
    };
    apt(&["update"]);
    apt(&["download", "libvirt-common"]);
    let package = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().path());
    let package = package.into_iter().find(|p| p.extension().is_some_and(|e| e == "deb")).unwrap();
    assert!(package.display().to_string().contains(VERSION), "{}: expected version {VERSION}", package.display());
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(target.join("root.new")));
    std::fs::rename(target.join("root.new"), target.join("root")).unwrap();
    schemas
}

/// Debian 12's backports, from where this machine has Debian 12 from.
fn backports() -> String {
    let format = "$(REPO_URI) $(RELEASE)";
    let targets =
        Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]).output().unwrap();
    let targets = String::from_utf8(targets.stdout).unwrap();
    let uri = targets.lines().find_map(|line| line.strip_suffix(" bookworm")).expect("apt knows no Debian 12");
    format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} bookworm-backports main\n")
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}; or set KUBEVMM_SCHEMAS to a directory with libvirt's schemas");
}
