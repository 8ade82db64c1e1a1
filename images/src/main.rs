//! Builds the project's container images without a container engine, and names them in the manifests.

mod archive;
mod command;
mod debian;
mod error;
mod list;
mod name;
mod program;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::list::{Image, List};
use crate::name::Registry;

/// Every image has the version of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Parser)]
#[command(name = "kubevmm-images", version, about)]
struct Arguments {
    /// Registry, with an optional path, that stands in front of the images' names.
    #[arg(long, env = "REGISTRY", default_value = "", global = true, value_parser = |text: &str| Registry::parse(text))]
    registry: Registry,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write one archive in the OCI image layout for each image.
    Build {
        /// Directory of the archives; made if it is not there.
        #[arg(long, default_value = "out/images")]
        out: PathBuf,
        /// Only these images.
        names: Vec<String>,
    },
    /// Write the images' names into the manifests of a directory.
    Yamls {
        #[arg(default_value = "yamls")]
        directory: PathBuf,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let list = List::parse(list::IMAGES)?;
    match arguments.command {
        Command::Build { out, names } => build(&list, &names, &arguments.registry, &out),
        Command::Yamls { directory } => rename_in(&directory, &list, &arguments.registry),
    }
}

fn build(list: &List, names: &[String], registry: &Registry, out: &Path) -> Result<()> {
    let images = list.select(names)?;
    program::build(&images)?;
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    for image in images {
        let layers = layers(list, image)?;
        let entrypoint = format!("/{}", image.program);
        let contents = archive::Contents { layers, entrypoint: &entrypoint, user: &image.user };
        let bytes = archive::write(contents, registry, &image.name, VERSION)?;
        let file = out.join(format!("{}.tar", image.name));
        debian::write_at_once(&file, &bytes)?;
        println!("images: {} {} ({} KiB)", file.display(), registry.name(&image.name, VERSION), bytes.len() / 1024);
    }
    Ok(())
}

fn layers(list: &List, image: &Image) -> Result<Vec<Vec<u8>>> {
    let mut layers = Vec::new();
    if let Some(base) = list.base(image) {
        layers.push(debian::layer(&base, &debian::cache_directory())?);
    }
    let mut program = tree::Tree::default();
    program.insert_file(&image.program, program::read(image)?, 0o755);
    layers.push(program.to_tar()?);
    Ok(layers)
}

fn rename_in(directory: &Path, list: &List, registry: &Registry) -> Result<()> {
    let images = list.names();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let file = entry?.path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let manifest = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let renamed = registry.rename(&manifest, &images, VERSION);
        if renamed != manifest {
            debian::write_at_once(&file, renamed.as_bytes())?;
            println!("images: {} changed", file.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_manifests_name_the_images_of_this_version() {
        let list = List::parse(list::IMAGES).unwrap();
        let names = list.names();
        let mut found = String::new();
        for entry in fs::read_dir(program::workspace().join("yamls")).unwrap() {
            let file = entry.unwrap().path();
            if !file.is_file() {
                continue;
            }
            let manifest = fs::read_to_string(&file).unwrap();
            let current = Registry::default().rename(&manifest, &names, VERSION);
            assert!(current == manifest, "{} is stale: run `make yamls`", file.display());
            found += &manifest;
        }
        for name in names {
            let image = Registry::default().name(name, VERSION);
            assert!(found.contains(&image), "no manifest uses {image}");
        }
    }
}
