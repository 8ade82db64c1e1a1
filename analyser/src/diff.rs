//! What differs between two domains, knowing what libvirt fills in by itself.
//!
//! The domain that was asked for (`from`) and the one that libvirt has (`to`) are compared element by element. Devices
//! are the same by their alias, else by what libvirt allows once (a disk's target, a NIC's MAC address, …), else by
//! their place among those of their kind; their order counts only in [`Mode::Exact`].

mod device;
mod filled;

use std::fmt;

use crate::lift::take_mark;
use crate::tree::{Element, Node, Tree, declared_prefix};

/// How much of a difference counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `to` is what `virDomainGetXMLDesc` gives with `VIR_DOMAIN_XML_INACTIVE`: what libvirt fills in when it defines a
    /// domain is no difference, as long as `from` does not say otherwise.
    Desired,
    /// `to` is what `virDomainGetXMLDesc` gives of a running domain: nor is what libvirt fills in when it starts one.
    Live,
    /// Everything but the order of attributes and what [`Tree::canonical`] drops.
    Exact,
}

/// One place where two domains differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Elements from the root, as in `devices/disk[ua-disk-root]/driver/@cache`; a device has its alias or other key in
    /// brackets, other elements their place where there are several.
    pub path: String,
    /// What is there in the first domain: text, or a whole element as XML.
    pub from: Option<String>,
    /// What is there in the second domain.
    pub to: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<String>| value.as_ref().map_or_else(|| "nothing".to_owned(), |v| format!("'{v}'"));
        write!(f, "{}: {} became {}", self.path, show(&self.from), show(&self.to))
    }
}

/// The differences of two domains, in the order of the first; none when they say the same.
pub fn diff(from: &Tree, to: &Tree, mode: Mode) -> Vec<Difference> {
    let (mut from, mut to) = (from.canonical(), to.canonical());
    if mode != Mode::Exact {
        // Whose a domain is, and of which generation, is asked elsewhere.
        [&mut from.root, &mut to.root].into_iter().for_each(take_mark);
    }
    let mut comparison = Comparison { mode, path: Vec::new(), found: Vec::new() };
    comparison.elements(&from.root, &to.root);
    comparison.found
}

struct Comparison {
    mode: Mode,
    /// Names with their keys, below the root.
    path: Vec<String>,
    found: Vec<Difference>,
}

impl Comparison {
    fn add(&mut self, step: Option<String>, from: Option<String>, to: Option<String>) {
        let path = self.path.iter().cloned().chain(step).collect::<Vec<_>>().join("/");
        self.found.push(Difference { path, from, to });
    }

    /// Names of the elements from below the root, without keys.
    fn place(&self) -> Vec<&str> {
        self.path.iter().map(|step| step.split_once('[').map_or(step.as_str(), |(name, _)| name)).collect()
    }

    fn elements(&mut self, from: &Element, to: &Element) {
        self.attributes(from, to);
        self.text(from, to);
        let mut steps = Vec::new();
        for name in names(from, to) {
            steps.extend(self.pairs(&name, from, to));
        }
        for (step, was, is) in steps {
            match (was, is) {
                (Some(was), Some(is)) => {
                    self.path.push(step);
                    self.elements(was, is);
                    self.path.pop();
                }
                (Some(was), None) => {
                    self.path.push(step);
                    let is_no_difference = self.mode != Mode::Exact && filled::says_nothing(&self.place(), was);
                    self.path.pop();
                    if !is_no_difference {
                        let step = device::step(was, from);
                        self.add(Some(step), Some(was.to_xml().trim_end().to_owned()), None);
                    }
                }
                (None, Some(is)) => {
                    self.path.push(step.clone());
                    let is_filled = filled::element(&self.place(), is, from, to, self.mode);
                    self.path.pop();
                    if !is_filled {
                        self.add(Some(step), None, Some(is.to_xml().trim_end().to_owned()));
                    }
                }
                (None, None) => {}
            }
        }
    }

    fn attributes(&mut self, from: &Element, to: &Element) {
        let counts = |name: &str| self.mode == Mode::Exact || declared_prefix(name).is_none();
        let (of_from, of_to) = (from.attributes().iter(), to.attributes().iter());
        let of_from: Vec<_> = of_from.filter(|a| counts(a.name())).collect();
        let of_to: Vec<_> = of_to.filter(|a| counts(a.name()) && from.attribute(a.name()).is_none()).collect();
        for attribute in of_from {
            let (name, was) = (attribute.name(), attribute.value());
            match to.attribute(name) {
                Some(is) if is == was => {}
                Some(is) if self.mode != Mode::Exact && self.is_same(name, (was, is), from, to) => {}
                None if self.mode != Mode::Exact && filled::goes_without_saying(&self.place(), name, was) => {}
                is => self.add(Some(format!("@{name}")), Some(was.to_owned()), is.map(str::to_owned)),
            }
        }
        for attribute in of_to {
            let (name, is) = (attribute.name(), attribute.value());
            let is_filled = self.mode != Mode::Exact && filled::attribute(&self.place(), name, is, from, to, self.mode);
            if !is_filled {
                self.add(Some(format!("@{name}")), None, Some(is.to_owned()));
            }
        }
    }

    fn is_same(&self, name: &str, (was, is): (&str, &str), from: &Element, to: &Element) -> bool {
        name == "unit" && filled::is_same_size(from, to) || filled::is_same(&self.place(), name, was, is, self.mode)
    }

    fn text(&mut self, from: &Element, to: &Element) {
        let (was, is) = (from.own_text(), to.own_text());
        let is_same = was == is
            || self.mode != Mode::Exact && (was.trim() == is.trim() || filled::is_same_text(&self.place(), from, to));
        if !is_same {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            self.add(None, some(&was), some(&is));
        }
    }

    /// Elements of one name on both sides, each with its step of the path.
    fn pairs<'a>(
        &self,
        name: &str,
        from: &'a Element,
        to: &'a Element,
    ) -> Vec<(String, Option<&'a Element>, Option<&'a Element>)> {
        let was: Vec<&Element> = from.elements().filter(|e| e.name() == name).collect();
        let is: Vec<&Element> = to.elements().filter(|e| e.name() == name).collect();
        let partners = match self.mode {
            Mode::Exact => (0..was.len()).map(|index| (index < is.len()).then_some(index)).collect(),
            Mode::Desired | Mode::Live => device::partners(&was, &is),
        };
        let mut pairs = Vec::with_capacity(was.len().max(is.len()));
        for (element, partner) in was.iter().zip(&partners) {
            pairs.push((device::step(element, from), Some(*element), partner.map(|index| is[index])));
        }
        let is_left = |index: &usize| !partners.contains(&Some(*index));
        for index in (0..is.len()).filter(is_left) {
            pairs.push((device::step(is[index], to), None, Some(is[index])));
        }
        pairs
    }
}

/// Names of the children of both, each once.
fn names(from: &Element, to: &Element) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for node in from.nodes().iter().chain(to.nodes()) {
        if let Node::Element(element) = node
            && !names.iter().any(|name| name == element.name())
        {
            names.push(element.name().to_owned());
        }
    }
    names
}
