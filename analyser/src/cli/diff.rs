//! `diff`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::files::{self, Format, Report, Source};
use super::{Failure, TROUBLE, Usage, lifted};
use crate::diff::{self, Difference};
use crate::error::Error;
use crate::xml::utf8;
use crate::{Tree, Value};

/// Arguments of `diff`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each difference is one line, PATH: FROM -> TO.
The domains can be XML, YAML or JSON, also what lift gives.
Two directories are compared file by file: web.xml with web.yaml.

Examples:
  kubevmm-analyser diff web.xml web.yaml
  virsh dumpxml --inactive web | kubevmm-analyser diff web.yaml -
  virsh dumpxml web | kubevmm-analyser diff --mode live web.yaml -
  kubevmm-analyser diff --mode exact -o json before/ after/

Exit codes: 0 no difference; 1 differences; 2 anything else.")]
pub struct Diff {
    /// The domain as it was asked for, or a directory; - is standard input
    from: PathBuf,
    /// The domain as it is, or a directory; - is standard input
    to: PathBuf,
    /// What counts
    #[arg(long, value_enum, default_value_t = Mode::Desired)]
    mode: Mode,
    /// Print the differences as data
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// All but what libvirt fills in when a domain is defined
    Desired,
    /// All but what libvirt fills in until a domain runs
    Live,
    /// Everything, also the order of devices
    Exact,
}

impl From<Mode> for diff::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Desired => Self::Desired,
            Mode::Live => Self::Live,
            Mode::Exact => Self::Exact,
        }
    }
}

/// What is compared with what, by name; two files have none. Of two directories, one may lack a file.
type Pairs = BTreeMap<String, (Option<Source>, Option<Source>)>;

/// What differs.
enum Found {
    /// Something in a document.
    Difference(Difference),
    /// One of two directories does not have the document.
    OnlyIn(String),
}

impl Diff {
    pub(super) fn run(&self) -> Result<ExitCode, Usage> {
        let pairs = self.pairs()?;
        let has_names = pairs.keys().any(|name| !name.is_empty());
        let mut report = Report::new(pairs.len());
        let mut found: Vec<(String, Found)> = Vec::new();
        for (name, pair) in pairs {
            match pair {
                (Some(from), Some(to)) => match (domain(&from), domain(&to)) {
                    (Ok(was), Ok(is)) => {
                        report.add(&to, Ok(()));
                        let differences = diff::diff(&was, &is, self.mode.into());
                        found.extend(differences.into_iter().map(|one| (name.clone(), Found::Difference(one))));
                    }
                    (Err(failure), _) => report.add(&from, Err(failure)),
                    (_, Err(failure)) => report.add(&to, Err(failure)),
                },
                (only, other) => {
                    let directory = if only.is_some() { &self.from } else { &self.to };
                    found.push((name, Found::OnlyIn(directory.display().to_string())));
                    only.or(other).iter().for_each(|source| report.add(source, Ok(())));
                }
            }
        }
        let all_compared = report.finish("compared");
        let text = match self.output {
            Some(format) => format.text(&Value::Sequence(found.iter().map(|f| data(f, has_names)).collect())),
            None => found.iter().map(line).collect(),
        };
        if let Err(failure) = files::write(None, &text) {
            eprintln!("error: {failure}");
            return Ok(TROUBLE.into());
        }
        let code = if all_compared { u8::from(!found.is_empty()) } else { TROUBLE };
        Ok(code.into())
    }

    fn pairs(&self) -> Result<Pairs, Usage> {
        let no_pair = || Usage::NoPair { from: self.from.display().to_string(), to: self.to.display().to_string() };
        let is_directory = self.from.is_dir();
        let is_stdin = |path: &Path| path.as_os_str() == "-";
        if is_directory != self.to.is_dir() || is_stdin(&self.from) && is_stdin(&self.to) {
            return Err(no_pair());
        }
        let mut pairs = Pairs::new();
        for (directory, is_first) in [(&self.from, true), (&self.to, false)] {
            for source in files::sources(std::slice::from_ref(directory), files::ANY)? {
                let name =
                    if is_directory { source.relative.with_extension("").display().to_string() } else { String::new() };
                let pair = pairs.entry(name.clone()).or_default();
                let place = if is_first { &mut pair.0 } else { &mut pair.1 };
                if place.replace(source).is_some() {
                    return Err(Usage::SameName { directory: directory.display().to_string(), name });
                }
            }
        }
        Ok(pairs)
    }
}

fn domain(source: &Source) -> Result<Tree, Failure> {
    let bytes = source.read()?;
    let tree = if files::is_xml(&bytes) {
        Tree::from_bytes(&bytes)?
    } else {
        let value = Value::from_yaml(utf8(&bytes)?)?;
        if lifted::is_document(&value) { lifted::domain(&value)? } else { Tree::from_value(&value)? }
    };
    if tree.root.name() != "domain" {
        let value = tree.root.name().to_owned();
        return Err(Error::Value { path: "/".into(), value, expected: "domain" }.into());
    }
    Ok(tree)
}

fn line((name, found): &(String, Found)) -> String {
    let name = if name.is_empty() { String::new() } else { format!("{name}: ") };
    match found {
        Found::Difference(Difference { path, from, to }) => {
            format!("{name}{path}: {} -> {}\n", shown(from.as_deref()), shown(to.as_deref()))
        }
        Found::OnlyIn(directory) => format!("{name}only in {directory}\n"),
    }
}

/// A text in quotes or an element, on one line.
fn shown(value: Option<&str>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(element) if element.starts_with('<') => element.lines().map(str::trim_start).collect(),
        Some(text) => format!("'{}'", text.replace('\n', "\\n")),
    }
}

fn data<'f>((name, found): &'f (String, Found), has_names: bool) -> Value<'f> {
    let text = |text: &'f str| Value::String(text.into());
    let optional = |text_of: &'f Option<String>| text_of.as_deref().map_or(Value::Null, text);
    let mut entries = Vec::new();
    if has_names {
        entries.push(("document".into(), text(name)));
    }
    match found {
        Found::Difference(Difference { path, from, to }) => {
            let parts = [("path", text(path)), ("from", optional(from)), ("to", optional(to))];
            entries.extend(parts.map(|(key, value)| (key.into(), value)));
        }
        Found::OnlyIn(directory) => entries.push(("onlyIn".into(), text(directory))),
    }
    Value::Mapping(entries)
}
