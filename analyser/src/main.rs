//! `kubevmm-analyser`: libvirt's documents as YAML or JSON, and back.

use std::collections::HashSet;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use kubevmm_analyser::Tree;

/// Converts libvirt's XML documents to YAML or JSON and back, without loss.
///
/// Exit codes: 0 all is well; 1 a document cannot be read or written, or validation found something; 2 wrong usage.
#[derive(Parser)]
#[command(name = "kubevmm-analyser", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// XML to YAML or JSON
    ToYaml {
        #[command(flatten)]
        files: Files,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
        output: Format,
    },
    /// YAML or JSON to XML
    ToXml {
        #[command(flatten)]
        files: Files,
    },
    /// Says what libvirt's schemas do not know, of XML, YAML or JSON: elements, attributes and text, not values
    Validate {
        /// Files and directories; - is standard input
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

#[derive(clap::Args)]
struct Files {
    /// Files and directories; - is standard input
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Directory for the converted files; needed for more than one
    #[arg(short, long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::ToYaml { files, output } => {
            let (extension, write): (_, Convert) = match output {
                Format::Yaml => ("yaml", |text| Ok(read_xml(text)?.to_yaml())),
                Format::Json => ("json", |text| Ok(read_xml(text)?.to_value().to_json_text())),
            };
            convert(&files, &["xml"], extension, write)
        }
        Command::ToXml { files } => {
            convert(&files, &["yaml", "yml", "json"], "xml", |text| Ok(read_yaml(text)?.to_xml()))
        }
        Command::Validate { paths } => validate(&paths),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

type Convert = fn(&[u8]) -> kubevmm_analyser::Result<String>;

fn read_xml(bytes: &[u8]) -> kubevmm_analyser::Result<Tree> {
    Ok(Tree::from_bytes(bytes)?.into_canonical())
}

fn read_yaml(bytes: &[u8]) -> kubevmm_analyser::Result<Tree> {
    Tree::from_yaml_bytes(bytes)
}

/// Converts each file; whether all went well. An error is one of usage.
fn convert(files: &Files, from: &[&str], to: &str, convert: Convert) -> anyhow::Result<bool> {
    let sources = sources(&files.paths, from)?;
    if sources.len() > 1 && files.directory.is_none() {
        bail!("{} files: say where the converted ones go, with --directory DIR", sources.len());
    }
    let target = |source: &Source| Some(files.directory.as_ref()?.join(source.relative.with_extension(to)));
    let mut targets = HashSet::new();
    if let Some(twice) = sources.iter().filter_map(target).find(|target| !targets.insert(target.clone())) {
        bail!("{}: two files would be converted to this one", twice.display());
    }
    let mut report = Report::new(sources.len());
    for source in &sources {
        report.add(source, convert_one(source, target(source).as_deref(), convert));
    }
    Ok(report.finish("converted"))
}

fn convert_one(source: &Source, target: Option<&Path>, convert: Convert) -> anyhow::Result<()> {
    let text = convert(&source.read()?)?;
    match target {
        None => std::io::stdout().write_all(text.as_bytes()).context("standard output"),
        Some(path) => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
            }
            std::fs::write(path, text).with_context(|| path.display().to_string())
        }
    }
}

fn validate(paths: &[PathBuf]) -> anyhow::Result<bool> {
    let sources = sources(paths, &["xml", "yaml", "yml", "json"])?;
    let mut report = Report::new(sources.len());
    for source in &sources {
        report.add(source, validate_one(source));
    }
    Ok(report.finish("valid"))
}

fn validate_one(source: &Source) -> anyhow::Result<()> {
    let bytes = source.read()?;
    let is_xml = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes).trim_ascii_start().starts_with(b"<");
    let tree = if is_xml { read_xml(&bytes)? } else { read_yaml(&bytes)? };
    let unknown = tree.unknown();
    if unknown.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = unknown.iter().map(ToString::to_string).collect();
    bail!(lines.join(&format!("\n{}: ", source.name())))
}

/// A file to read, or standard input.
struct Source {
    path: Option<PathBuf>,
    /// Path below the directory that was asked for, or the file's name.
    relative: PathBuf,
}

impl Source {
    fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string())
    }

    fn read(&self) -> anyhow::Result<Vec<u8>> {
        match &self.path {
            Some(path) => Ok(std::fs::read(path)?),
            None => {
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

/// The files that are meant: of a directory, those with one of these extensions, at any depth, by name.
fn sources(paths: &[PathBuf], extensions: &[&str]) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            sources.push(Source { path: None, relative: "stdin".into() });
        } else if path.is_dir() {
            let before = sources.len();
            walk(path, path, extensions, &mut sources)?;
            if sources.len() == before {
                bail!("{}: no file in it ends with .{}", path.display(), extensions.join(" or ."));
            }
        } else {
            let relative = path.file_name().with_context(|| format!("{}: not a file", path.display()))?.into();
            sources.push(Source { path: Some(path.clone()), relative });
        }
    }
    Ok(sources)
}

fn walk(root: &Path, directory: &Path, extensions: &[&str], sources: &mut Vec<Source>) -> anyhow::Result<()> {
    let context = || directory.display().to_string();
    let entries = std::fs::read_dir(directory).with_context(context)?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().with_context(context)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // A link to a directory may lead back here.
        if entry.file_type().with_context(context)?.is_dir() {
            walk(root, &path, extensions, sources)?;
        } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) && path.is_file() {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
            sources.push(Source { path: Some(path), relative });
        }
    }
    Ok(())
}

/// Tells on standard error what failed, how far the work is, and the sum.
struct Report {
    total: usize,
    done: usize,
    failed: usize,
    shows_progress: bool,
}

impl Report {
    fn new(total: usize) -> Self {
        Self { total, done: 0, failed: 0, shows_progress: total > 1 && std::io::stderr().is_terminal() }
    }

    fn add(&mut self, source: &Source, result: anyhow::Result<()>) {
        self.done += 1;
        if let Err(error) = result {
            self.failed += 1;
            self.clear();
            eprintln!("{}: {error:#}", source.name());
        }
        if self.shows_progress {
            eprint!("\r{}/{}", self.done, self.total);
        }
    }

    fn clear(&self) {
        if self.shows_progress {
            eprint!("\r\x1b[K");
        }
    }

    /// Whether nothing failed.
    fn finish(self, verb: &str) -> bool {
        self.clear();
        if self.total > 1 {
            eprintln!("{} {verb}, {} failed", self.total - self.failed, self.failed);
        }
        self.failed == 0
    }
}
