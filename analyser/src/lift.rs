//! From a domain to the typed fields of a VM and what they cannot say: the inverse of [`lower`](crate::lower).
//!
//! Whatever typed fields say is read first; then what [`lower_with`](crate::lower::lower_with) needs beside it to make
//! the very same domain is the `spec.domain` of the result. So nothing is lost, and nothing is said twice.

mod overlay;
mod read;

pub(crate) use read::bytes;

use crate::error::{Error, Result};
use crate::lower::{DiskLocation, HostFacts, Identity, Typed, hardware, lower_typed};
use crate::mark::{Mark, is_ours};
use crate::tree::{Element, Node, Tree};
use crate::value::Value;

/// A domain in three parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifted {
    /// Whose it is.
    pub identity: Identity,
    /// What typed fields say.
    pub typed: Typed,
    /// The rest, for `spec.domain`; an empty mapping when there is none.
    pub domain: Value<'static>,
}

impl Lifted {
    /// The domain that was lifted, in canonical form; attributes may stand in another order.
    ///
    /// # Errors
    /// None that lifting does not have, as long as the parts are as they were.
    pub fn lower(&self) -> Result<Element> {
        lower_typed(&self.typed, &self.identity, &self.domain)
    }
}

/// Which typed fields there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// Those of a [`DomainInput`](crate::lower::DomainInput).
    Input,
    /// Those of the spec of a VirtualMachine, a part of them. What it cannot say is in the `domain` of the result, over
    /// what the lowering makes of a VM that says nothing else.
    Spec,
}

/// Takes a domain apart. Take what `virDomainGetXMLDesc` gives with `VIR_DOMAIN_XML_INACTIVE`, also of a transient domain:
/// else the state of the running one (its id, its ptys) is in the result.
///
/// # Errors
/// [`Error::Value`] for what is no `<domain>`; [`Error::Shape`] for what libvirt takes for no domain either: two names or
/// UUIDs, or a NIC without a type that has our alias; those of [`Mark::find`] for a mark that cannot be read.
pub fn lift(domain: &Tree) -> Result<Lifted> {
    lift_with(domain, Vocabulary::Input, None)
}

/// [`lift`] into the fields of a vocabulary, for a host: with its facts, `domain` also holds where this domain differs
/// from what this host would choose (the accelerator, the emulator). Without, they are those of the domain.
///
/// # Errors
/// Those of [`lift`].
pub fn lift_with(domain: &Tree, vocabulary: Vocabulary, host: Option<&HostFacts>) -> Result<Lifted> {
    lift_some(domain, vocabulary, host, &|_, _| true)
}

/// [`lift_with`] into [`Vocabulary::Spec`], with those disks typed alone of which `is_typed` says so.
#[cfg(feature = "spec")]
pub(crate) fn lift_spec(domain: &Tree, host: &HostFacts, is_typed: &IsTyped<'_>) -> Result<Lifted> {
    lift_some(domain, Vocabulary::Spec, Some(host), is_typed)
}

/// Whether a disk that lies there is to be typed.
type IsTyped<'a> = dyn Fn(&Element, &DiskLocation) -> bool + 'a;

fn lift_some(
    domain: &Tree,
    vocabulary: Vocabulary,
    host: Option<&HostFacts>,
    is_typed: &IsTyped<'_>,
) -> Result<Lifted> {
    if domain.root.name() != "domain" {
        let value = domain.root.name().to_owned();
        return Err(Error::Value { path: "/".into(), value, expected: "domain" });
    }
    let mut root = domain.canonical().root;
    let identity = take_identity(&mut root)?;
    let mut typed = read::typed(&root, is_typed);
    if let Some(host) = host {
        typed.host = host.clone();
    }
    if vocabulary == Vocabulary::Spec {
        typed.restrict_to_spec();
    }
    read::relabel(&mut root, &typed, is_typed);
    let base = Tree::new(hardware(&typed)).into_canonical();
    let domain = overlay::overlay(&base, &Tree::new(root).into_canonical());
    let lifted = Lifted { identity, typed, domain };
    // A half device that claims to be a typed one could be lifted, but never be lowered.
    lifted.lower()?;
    Ok(lifted)
}

fn take_identity(root: &mut Element) -> Result<Identity> {
    let mark = Mark::find(root)?;
    if mark.is_some() {
        take_mark(root);
    }
    Ok(Identity { name: take_text(root, "name")?, uuid: take_text(root, "uuid")?, mark })
}

fn take_text(root: &mut Element, name: &'static str) -> Result<Option<String>> {
    let mut found = root.remove(name).into_iter();
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(one), None) if one.attributes().is_empty() && one.elements().next().is_none() => {
            Ok(Some(one.own_text().into_owned()))
        }
        _ => Err(Error::at(format!("domain.{name}"), "expected one text: a domain has one such")),
    }
}

/// Takes our mark out of the metadata, and the metadata if there is no other.
pub(crate) fn take_mark(root: &mut Element) {
    for mut metadata in root.remove("metadata") {
        let ours: Vec<bool> = metadata.elements().map(|e| is_ours(e, &metadata, root)).collect();
        let mut of_elements = ours.iter();
        metadata.nodes_mut().retain(|node| match node {
            Node::Element(_) => of_elements.next() == Some(&false),
            Node::Text(_) => true,
        });
        if !ours.contains(&true) || !metadata.is_empty() {
            root.push(metadata);
        }
    }
}
