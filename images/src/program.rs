//! Builds the programs that go into the images.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::command;
use crate::error::{Error, at};
use crate::list::Image;

/// Builds the programs of these images in one run of cargo for each way of linking.
pub(crate) fn build(images: &[&Image]) -> Result<(), Error> {
    for is_static in [false, true] {
        let mut programs =
            images.iter().filter(|image| image.is_static == is_static).map(|image| &image.program).peekable();
        if programs.peek().is_none() {
            continue;
        }
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(workspace()).args(["build", "--release", "--locked"]);
        if is_static {
            // A target of its own, so that the flags do not reach build scripts and procedural macros.
            cargo.args(["--target", &target()]);
            cargo.env(flags_variable(), "-C target-feature=+crt-static -C relocation-model=static -C panic=abort");
        }
        // Not packages, for which cargo would resolve the features anew: a dependency is compiled once.
        for program in programs {
            cargo.args(["--bin", program]);
        }
        forget_the_outer_cargo(&mut cargo);
        command::run(&mut cargo)?;
    }
    Ok(())
}

/// `cargo run` tells this program its own package; a build script that looks at those variables (ring's does) would run
/// again in each build, and everything that depends on it with it.
fn forget_the_outer_cargo(cargo: &mut Command) {
    let own = |name: &str| {
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_BIN_")
    };
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(own) {
            cargo.env_remove(name);
        }
    }
}

/// The program's bytes.
pub(crate) fn read(image: &Image) -> Result<Vec<u8>, Error> {
    let path = path(image);
    fs::read(&path).map_err(at(path))
}

/// Where cargo has put the program.
fn path(image: &Image) -> PathBuf {
    let directory =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |path| workspace().join(path));
    let directory = if image.is_static { directory.join(target()) } else { directory };
    directory.join("release").join(&image.program)
}

/// The root of the work tree.
pub(crate) fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

fn flags_variable() -> String {
    format!("CARGO_TARGET_{}_RUSTFLAGS", target().to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::{IMAGES, List};

    #[test]
    fn each_program_is_a_package_of_the_workspace() {
        for image in List::parse(IMAGES).unwrap().images {
            let is_package = |manifest: PathBuf| {
                fs::read_to_string(manifest).is_ok_and(|text| text.contains(&format!("name = {:?}", image.program)))
            };
            let candidates = [format!("{}/Cargo.toml", image.name), format!("images/{}/Cargo.toml", image.name)];
            assert!(candidates.iter().any(|path| is_package(workspace().join(path))), "{}", image.program);
        }
    }

    #[test]
    fn no_build_of_the_makefile_selects_packages() {
        let makefile = fs::read_to_string(workspace().join("Makefile")).unwrap();
        let lines: Vec<_> = makefile.lines().filter(|line| line.contains("$(CARGO)")).collect();
        assert!(lines.len() > 5, "{lines:?}");
        for line in lines {
            let selects = line.split(' ').any(|word| matches!(word, "-p" | "--package" | "--exclude"));
            let builds = !line.contains("--no-build");
            assert!(!selects || !builds, "this compiles dependencies again, with other features: {line}");
        }
    }

    #[test]
    fn a_static_program_has_a_directory_of_its_own() {
        let list = List::parse(IMAGES).unwrap();
        let [controller, _, _, pause] = &list.images[..] else { panic!("four images") };
        assert!(path(controller).ends_with("release/kubevmm-controller"));
        assert!(path(pause).ends_with(format!("{}/release/kubevmm-pause", target())));
    }
}
