//! Reads RELAX NG grammars in XML syntax, as far as libvirt's use it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kubevmm_analyser::{Element, Tree};

/// A pattern of a schema. Data types and list patterns are [`Pattern::Text`]: the shapes do not depend on them.
#[derive(Debug)]
pub(crate) enum Pattern {
    Empty,
    NotAllowed,
    Text,
    Value(String),
    Attribute { name: Option<String>, content: Box<Pattern> },
    Element(usize),
    Group(Vec<Pattern>),
    Interleave(Vec<Pattern>),
    Choice(Vec<Pattern>),
    Many(Box<Pattern>),
    Ref { scope: usize, name: String },
}

/// An `<element>` of a schema; its name is `None` for a wildcard.
#[derive(Debug)]
pub(crate) struct ElementPattern {
    pub(crate) namespace: String,
    pub(crate) name: Option<String>,
    pub(crate) content: Pattern,
}

/// All grammars that were read, each `<grammar>` a scope of its own.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    pub(crate) elements: Vec<ElementPattern>,
    scopes: Vec<HashMap<String, Vec<Pattern>>>,
}

/// The name under which the start pattern is kept in its scope: no define can have it.
const START: &str = "<start>";

impl Schemas {
    /// Reads a file and what it includes; gives its start pattern.
    pub(crate) fn read(&mut self, file: &Path) -> anyhow::Result<Pattern> {
        let root = parse(file)?;
        self.grammar(&root, file, "")
    }

    /// The patterns that a reference stands for: more than one are alternatives.
    pub(crate) fn defined(&self, scope: usize, name: &str) -> anyhow::Result<&[Pattern]> {
        let defined = self.scopes[scope].get(name).map(Vec::as_slice);
        defined.with_context(|| format!("reference to '{name}', which is not defined"))
    }

    fn grammar(&mut self, grammar: &Element, file: &Path, namespace: &str) -> anyhow::Result<Pattern> {
        let scope = self.scopes.len();
        self.scopes.push(HashMap::new());
        self.declarations(grammar, file, namespace, scope, &mut Vec::new())?;
        Ok(Pattern::Ref { scope, name: START.to_owned() })
    }

    /// Adds the definitions below a `<grammar>`. A file that is included twice in one scope is read once.
    fn declarations(
        &mut self,
        grammar: &Element,
        file: &Path,
        namespace: &str,
        scope: usize,
        included: &mut Vec<PathBuf>,
    ) -> anyhow::Result<()> {
        let namespace = grammar.attribute("ns").unwrap_or(namespace).to_owned();
        for child in grammar.elements() {
            match child.name() {
                "start" | "define" => {
                    let name = child.attribute("name").unwrap_or(START).to_owned();
                    let pattern = self.group(child, file, &namespace, scope)?;
                    self.scopes[scope].entry(name).or_default().push(pattern);
                }
                "include" => {
                    let path = relative(file, child)?;
                    if !included.contains(&path) {
                        included.push(path.clone());
                        let root = parse(&path)?;
                        self.declarations(&root, &path, "", scope, included)?;
                    }
                }
                other => bail!("{}: <{other}> in a grammar", file.display()),
            }
        }
        Ok(())
    }

    fn group(&mut self, parent: &Element, file: &Path, namespace: &str, scope: usize) -> anyhow::Result<Pattern> {
        let mut patterns = self.patterns(parent, file, namespace, scope)?;
        Ok(if patterns.len() == 1 { patterns.remove(0) } else { Pattern::Group(patterns) })
    }

    fn patterns(
        &mut self,
        parent: &Element,
        file: &Path,
        namespace: &str,
        scope: usize,
    ) -> anyhow::Result<Vec<Pattern>> {
        let inner = |e: &&Element| !matches!(e.name(), "anyName" | "param" | "except");
        parent.elements().filter(inner).map(|e| self.pattern(e, file, namespace, scope)).collect()
    }

    fn pattern(&mut self, e: &Element, file: &Path, namespace: &str, scope: usize) -> anyhow::Result<Pattern> {
        let namespace = e.attribute("ns").unwrap_or(namespace);
        Ok(match e.name() {
            "empty" => Pattern::Empty,
            "notAllowed" => Pattern::NotAllowed,
            "text" | "data" | "list" => Pattern::Text,
            "value" => Pattern::Value(e.own_text().trim().to_owned()),
            "ref" => Pattern::Ref { scope, name: e.attribute("name").context("<ref> without a name")?.to_owned() },
            "attribute" => {
                let content = Box::new(self.group(e, file, namespace, scope)?);
                Pattern::Attribute { name: e.attribute("name").map(str::to_owned), content }
            }
            "element" => {
                let content = self.group(e, file, namespace, scope)?;
                let name = e.attribute("name").map(str::to_owned);
                self.elements.push(ElementPattern { namespace: namespace.to_owned(), name, content });
                Pattern::Element(self.elements.len() - 1)
            }
            "group" => Pattern::Group(self.patterns(e, file, namespace, scope)?),
            "interleave" => Pattern::Interleave(self.patterns(e, file, namespace, scope)?),
            "choice" => Pattern::Choice(self.patterns(e, file, namespace, scope)?),
            "optional" => Pattern::Choice(vec![Pattern::Empty, self.group(e, file, namespace, scope)?]),
            "zeroOrMore" | "oneOrMore" => Pattern::Many(Box::new(self.group(e, file, namespace, scope)?)),
            "grammar" => self.grammar(e, file, namespace)?,
            other => bail!("{}: <{other}> is not known", file.display()),
        })
    }
}

fn parse(file: &Path) -> anyhow::Result<Element> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    Ok(Tree::from_bytes(&bytes).with_context(|| file.display().to_string())?.root)
}

fn relative(file: &Path, include: &Element) -> anyhow::Result<PathBuf> {
    let href = include.attribute("href").context("<include> without href")?;
    Ok(file.with_file_name(href))
}
