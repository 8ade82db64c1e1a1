//! What is read, where it goes, and how it went.

use std::collections::HashSet;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{Failure, Usage};
use crate::Value;

/// Extensions of files with XML.
pub(super) const XML: &[&str] = &["xml"];
/// Extensions of files with YAML or JSON.
pub(super) const YAML: &[&str] = &["yaml", "yml", "json"];
/// Extensions of files with either.
pub(super) const ANY: &[&str] = &["xml", "yaml", "yml", "json"];

/// How data is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    Yaml,
    Json,
}

impl Format {
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Yaml => "yaml",
            Self::Json => "json",
        }
    }

    pub(super) fn text(self, value: &Value<'_>) -> String {
        match self {
            Self::Yaml => value.to_yaml(),
            Self::Json => value.to_json_text(),
        }
    }
}

/// Whether this is to be read as XML; else it is YAML or JSON.
pub(super) fn is_xml(bytes: &[u8]) -> bool {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start().starts_with(b"<")
}

/// Documents to convert, and where to.
#[derive(Args, Debug)]
pub(super) struct Files {
    /// Files and directories; - is standard input
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Directory for the converted files; needed for more than one
    #[arg(short, long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Files {
    /// Converts each document; whether all went well.
    pub(super) fn convert(
        &self,
        from: &'static [&'static str],
        to: &str,
        convert: impl Fn(&[u8]) -> crate::Result<String>,
    ) -> Result<bool, Usage> {
        let sources = sources(&self.paths, from)?;
        if sources.len() > 1 && self.directory.is_none() {
            return Err(Usage::NoDirectory { files: sources.len() });
        }
        let target = |source: &Source| Some(self.directory.as_ref()?.join(source.relative.with_extension(to)));
        let mut targets = HashSet::new();
        if let Some(twice) = sources.iter().filter_map(target).find(|target| !targets.insert(target.clone())) {
            return Err(Usage::Twice { file: twice.display().to_string() });
        }
        let mut report = Report::new(sources.len());
        for source in &sources {
            let converted = source.read().and_then(|bytes| Ok(convert(&bytes)?));
            report.add(source, converted.and_then(|text| write(target(source).as_deref(), &text)));
        }
        Ok(report.finish("converted"))
    }
}

/// To a file, else to standard output.
pub(super) fn write(target: Option<&Path>, text: &str) -> Result<(), Failure> {
    let Some(path) = target else {
        let written = std::io::stdout().write_all(text.as_bytes());
        return written.map_err(|source| Failure::Write { path: "standard output".to_owned(), source });
    };
    let parent = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = parent.and_then(|()| std::fs::write(path, text));
    written.map_err(|source| Failure::Write { path: path.display().to_string(), source })
}

/// A file to read, or standard input.
pub(super) struct Source {
    path: Option<PathBuf>,
    /// Path below the directory that was asked for, or the file's name.
    pub(super) relative: PathBuf,
}

impl Source {
    fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string())
    }

    pub(super) fn read(&self) -> Result<Vec<u8>, Failure> {
        let read = match &self.path {
            Some(path) => std::fs::read(path),
            None => {
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
            }
        };
        read.map_err(Failure::Read)
    }
}

/// The files that are meant: of a directory, those with one of these extensions, at any depth, by name.
pub(super) fn sources(paths: &[PathBuf], extensions: &'static [&'static str]) -> Result<Vec<Source>, Usage> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            sources.push(Source { path: None, relative: "stdin".into() });
        } else if path.is_dir() {
            let before = sources.len();
            walk(path, path, extensions, &mut sources)?;
            if sources.len() == before {
                return Err(Usage::NothingThere { path: path.display().to_string(), extensions });
            }
        } else {
            let Some(name) = path.file_name() else {
                return Err(Usage::NoFile { path: path.display().to_string() });
            };
            sources.push(Source { path: Some(path.clone()), relative: name.into() });
        }
    }
    Ok(sources)
}

fn walk(root: &Path, directory: &Path, extensions: &[&str], sources: &mut Vec<Source>) -> Result<(), Usage> {
    let unreadable = |source| Usage::Directory { path: directory.display().to_string(), source };
    let entries = std::fs::read_dir(directory).map_err(unreadable)?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // A link to a directory may lead back here.
        if entry.file_type().map_err(unreadable)?.is_dir() {
            walk(root, &path, extensions, sources)?;
        } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) && path.is_file() {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
            sources.push(Source { path: Some(path), relative });
        }
    }
    Ok(())
}

/// Tells on standard error what failed and the sum; on a terminal also how far the work is.
pub(super) struct Report {
    total: usize,
    done: usize,
    failed: usize,
    shows_progress: bool,
}

impl Report {
    pub(super) fn new(total: usize) -> Self {
        Self { total, done: 0, failed: 0, shows_progress: total > 1 && std::io::stderr().is_terminal() }
    }

    pub(super) fn add(&mut self, source: &Source, result: Result<(), Failure>) {
        self.done += 1;
        if let Err(failure) = result {
            self.failed += 1;
            self.clear();
            for line in failure.to_string().lines() {
                eprintln!("{}: {line}", source.name());
            }
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

    /// Whether nothing failed. `verb` says what those are that did not.
    pub(super) fn finish(self, verb: &str) -> bool {
        self.clear();
        if self.total > 1 {
            eprintln!("{} {verb}, {} failed", self.total - self.failed, self.failed);
        }
        self.failed == 0
    }
}
