//! From schemas to the table of shapes.
//!
//! A shape is what may stand in an element, seen from one place: the union of all patterns that the schemas have for
//! that name there. Equal shapes are one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::relaxng::{Pattern, Schemas};

/// Elements whose children keep the order between different names although the schema allows any: libvirt reads the
/// rules of a network filter and its references to other filters as one list.
const ORDERED_ROOTS: [&str; 1] = ["filter"];

/// The values that say what kind of scalar an attribute or text is.
type Values = BTreeSet<String>;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    attributes: BTreeMap<String, Values>,
    text: Option<Values>,
    is_ordered: bool,
    takes_anything: bool,
    children: Vec<Child>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Child {
    namespace: String,
    name: String,
    is_many: bool,
    shape: usize,
}

/// What the content of some elements allows, before the children have shapes.
#[derive(Clone, Debug, Default)]
struct Content {
    attributes: BTreeMap<String, Values>,
    text: Option<Values>,
    takes_anything: bool,
    /// In the schema's order.
    children: Vec<(Key, Occurrence)>,
    /// Pairs of names where a group puts the first one before the second one.
    before: BTreeSet<(Key, Key)>,
}

type Key = (String, String);

#[derive(Clone, Debug, Default)]
struct Occurrence {
    is_many: bool,
    elements: BTreeSet<usize>,
}

/// The table of all schemas of a directory, as text.
pub(crate) fn generate(directory: &Path) -> anyhow::Result<String> {
    let mut schemas = Schemas::default();
    let mut roots = BTreeMap::<Key, BTreeSet<usize>>::new();
    for file in files(directory)? {
        let start = schemas.read(&file)?;
        // A file without a start is only included by others.
        let Ok(content) = content(&schemas, &start) else { continue };
        for (key, occurrence) in content.children {
            roots.entry(key).or_default().extend(occurrence.elements);
        }
    }
    let mut builder = Builder { schemas: &schemas, known: HashMap::new(), shapes: Vec::new() };
    let mut root_shapes = Vec::new();
    for ((_, name), elements) in roots {
        let shape = builder.shape(elements)?;
        builder.shapes[shape].is_ordered |= ORDERED_ROOTS.contains(&name.as_str());
        root_shapes.push((name, shape));
    }
    Ok(print(&root_shapes, &builder.shapes))
}

fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rng") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

struct Builder<'a> {
    schemas: &'a Schemas,
    known: HashMap<BTreeSet<usize>, usize>,
    shapes: Vec<Shape>,
}

impl Builder<'_> {
    fn shape(&mut self, elements: BTreeSet<usize>) -> anyhow::Result<usize> {
        if let Some(&there) = self.known.get(&elements) {
            return Ok(there);
        }
        let number = self.shapes.len();
        self.shapes.push(Shape::default());
        self.known.insert(elements.clone(), number);
        let mut all = Content::default();
        for element in &elements {
            let one = content(self.schemas, &self.schemas.elements[*element].content)?;
            all = either(all, one);
        }
        let mut shape = Shape {
            attributes: all.attributes,
            text: all.text,
            is_ordered: !all.before.is_empty(),
            takes_anything: all.takes_anything,
            children: Vec::new(),
        };
        for ((namespace, name), occurrence) in all.children {
            let of_child = self.shape(occurrence.elements)?;
            shape.children.push(Child { namespace, name, is_many: occurrence.is_many, shape: of_child });
        }
        self.shapes[number] = shape;
        Ok(number)
    }
}

/// What a pattern allows. Names come in the order of the schema.
fn content(schemas: &Schemas, pattern: &Pattern) -> anyhow::Result<Content> {
    let mut found = Content::default();
    match pattern {
        Pattern::Empty | Pattern::NotAllowed => {}
        Pattern::Text => found.text = Some(Values::new()),
        Pattern::Value(value) => found.text = Some(Values::from([value.clone()])),
        Pattern::Attribute { name: Some(name), content: value } => {
            let value = content(schemas, value)?.text.unwrap_or_default();
            found.attributes.insert(name.clone(), value);
        }
        Pattern::Attribute { name: None, .. } => found.takes_anything = true,
        Pattern::Element(number) => {
            let element = &schemas.elements[*number];
            match &element.name {
                None => found.takes_anything = true,
                // An element that the schema forbids is there only to be overridden.
                Some(_) if matches!(element.content, Pattern::NotAllowed) => {}
                Some(name) => {
                    let key = (element.namespace.clone(), name.clone());
                    found.children.push((key, Occurrence { is_many: false, elements: BTreeSet::from([*number]) }));
                }
            }
        }
        Pattern::Group(patterns) => {
            for pattern in patterns {
                found = both(found, content(schemas, pattern)?, true);
            }
        }
        Pattern::Interleave(patterns) => {
            for pattern in patterns {
                found = both(found, content(schemas, pattern)?, false);
            }
        }
        Pattern::Choice(patterns) => {
            for pattern in patterns {
                found = either(found, content(schemas, pattern)?);
            }
        }
        Pattern::Many(pattern) => {
            found = content(schemas, pattern)?;
            found.children.iter_mut().for_each(|(_, occurrence)| occurrence.is_many = true);
        }
        Pattern::Ref { scope, name } => {
            for defined in schemas.defined(*scope, name)? {
                found = either(found, content(schemas, defined)?);
            }
        }
    }
    Ok(found)
}

/// Both contents stand in one element; in a group the second one comes after the first one.
fn both(first: Content, second: Content, in_group: bool) -> Content {
    let mut before = BTreeSet::new();
    if in_group {
        for (a, _) in &first.children {
            before.extend(second.children.iter().filter(|(b, _)| a != b).map(|(b, _)| (a.clone(), b.clone())));
        }
    }
    let mut found = merge(first, second, true);
    found.before.extend(before);
    found
}

/// One of the two contents stands in an element.
fn either(first: Content, second: Content) -> Content {
    merge(first, second, false)
}

fn merge(mut first: Content, second: Content, is_sum: bool) -> Content {
    for (name, values) in second.attributes {
        first.attributes.entry(name).or_default().extend(values);
    }
    if let Some(values) = second.text {
        first.text.get_or_insert_default().extend(values);
    }
    first.takes_anything |= second.takes_anything;
    first.before.extend(second.before);
    for (key, occurrence) in second.children {
        match first.children.iter_mut().find(|(there, _)| *there == key) {
            Some((_, there)) => {
                there.is_many |= is_sum || occurrence.is_many;
                there.elements.extend(occurrence.elements);
            }
            None => first.children.push((key, occurrence)),
        }
    }
    first
}

/// Numbers equal shapes alike: the coarsest partition that the shapes' own content and their children's classes allow.
fn classes(shapes: &[Shape]) -> Vec<usize> {
    let mut class = vec![0; shapes.len()];
    let mut count = 1;
    loop {
        let mut numbers = HashMap::new();
        let next: Vec<usize> = shapes
            .iter()
            .map(|shape| {
                let mut seen = shape.clone();
                seen.children.iter_mut().for_each(|child| child.shape = class[child.shape]);
                let number = numbers.len();
                *numbers.entry(format!("{seen:?}")).or_insert(number)
            })
            .collect();
        class = next;
        if numbers.len() == count {
            return class;
        }
        count = numbers.len();
    }
}

fn print(roots: &[(String, usize)], shapes: &[Shape]) -> String {
    let class = classes(shapes);
    let mut out = String::from(HEADER);
    let mut order = Vec::new();
    let mut number = HashMap::new();
    let mut reach = |shape: usize, order: &mut Vec<usize>| -> usize {
        *number.entry(class[shape]).or_insert_with(|| {
            order.push(shape);
            order.len() - 1
        })
    };
    for (name, shape) in roots {
        let shape = reach(*shape, &mut order);
        let _ = writeln!(out, "root {name} {shape}");
    }
    let mut at = 0;
    while at < order.len() {
        let shape = &shapes[order[at]];
        let _ = writeln!(out, "shape {at}{}{}", flag(shape.is_ordered, "ordered"), flag(shape.takes_anything, "any"));
        if let Some(values) = &shape.text {
            let _ = writeln!(out, " text{}", scalar(values));
        }
        for (name, values) in &shape.attributes {
            let _ = writeln!(out, " @{name}{}", scalar(values));
        }
        for child in &shape.children {
            let of_child = reach(child.shape, &mut order);
            let namespace = if child.namespace.is_empty() { String::new() } else { format!("{{{}}}", child.namespace) };
            let list = if child.is_many { format!(" {}", list_key(child, shape)) } else { String::new() };
            let _ = writeln!(out, " {namespace}{} {of_child}{list}", child.name);
        }
        at += 1;
    }
    out
}

const HEADER: &str = "\
# Shapes of libvirt's documents, generated from its RELAX NG schemas by the example `shapes`; not to be edited.
# root NAME SHAPE
# shape NUMBER [ordered] [any]: children of different names keep their order; names from no schema are welcome
#   text [yes-no|on-off]
#   @ATTRIBUTE [yes-no|on-off]
#   [{NAMESPACE}]CHILD SHAPE [LIST]: LIST is the key of a child that can stand there many times
";

fn flag(is_set: bool, name: &str) -> String {
    if is_set { format!(" {name}") } else { String::new() }
}

/// Switches that YAML writes as `true` and `false`.
fn scalar(values: &Values) -> &'static str {
    let has = |value: &str| values.contains(value);
    match (has("yes") && has("no"), has("on") && has("off")) {
        (true, false) if !has("on") && !has("off") => " yes-no",
        (false, true) if !has("yes") && !has("no") => " on-off",
        _ => "",
    }
}

/// The plural of a child's name; the name itself where the plural is the name of something else there.
fn list_key(child: &Child, shape: &Shape) -> String {
    let plural = plural(&child.name);
    let is_taken = shape.attributes.contains_key(&plural)
        || shape.children.iter().any(|other| other.name == plural && other.namespace == child.namespace);
    if is_taken { child.name.clone() } else { plural }
}

fn plural(name: &str) -> String {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&["ss", "us", "x", "ch", "sh"]) {
        return format!("{name}es");
    }
    if name.ends_with('s') {
        return name.to_owned();
    }
    match name.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{name}s"),
    }
}
