//! The mark of ownership: a metadata element on domains and networks that says which object they belong to.

use crate::error::{Error, Result};
use crate::tree::{Element, Tree, split_name};

/// Namespace of the metadata element, the `uri` of `virDomainSetMetadata`.
pub const MARK_NAMESPACE: &str = "https://kubevmm.io/libvirt/1";
/// Prefix of the metadata element, the `key` of `virDomainSetMetadata`.
pub const MARK_PREFIX: &str = "kubevmm";
const ELEMENT: &str = "object";

/// Which object of which cluster a domain or network is, and which state of it was applied last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Identity of the cluster: the uid of its namespace `kube-system`.
    pub cluster: String,
    /// Namespace of the object; empty for a cluster-wide one.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Uid of the object.
    pub uid: String,
    /// Epoch of the placement that the domain was made for; 0 for a network.
    pub epoch: i64,
    /// Generation of the object that was applied last.
    pub generation: i64,
}

/// Whether an element of a document's metadata is in our namespace.
pub(crate) fn is_ours(element: &Element, metadata: &Element, document: &Element) -> bool {
    let prefix = element.prefix();
    let declared = [element, metadata, document].into_iter().find_map(|e| e.namespace_of(prefix));
    declared == Some(MARK_NAMESPACE)
}

impl Mark {
    /// The element with its namespace, for the `<metadata>` of a document.
    pub fn to_element(&self) -> Element {
        let declaration = format!("xmlns:{MARK_PREFIX}");
        self.fill(Element::new(format!("{MARK_PREFIX}:{ELEMENT}")).attr(declaration, MARK_NAMESPACE))
    }

    /// The text for `virDomainSetMetadata` and `virNetworkSetMetadata`, which add [`MARK_PREFIX`] and
    /// [`MARK_NAMESPACE`] by themselves.
    pub fn to_metadata(&self) -> String {
        self.fill(Element::new(ELEMENT)).to_xml()
    }

    fn fill(&self, element: Element) -> Element {
        element
            .attr("cluster", &self.cluster)
            .attr("namespace", &self.namespace)
            .attr("name", &self.name)
            .attr("uid", &self.uid)
            .attr("epoch", self.epoch)
            .attr("generation", self.generation)
    }

    /// Reads what `virDomainGetMetadata` and `virNetworkGetMetadata` return for [`MARK_NAMESPACE`].
    ///
    /// # Errors
    /// When the text is not XML, or an attribute is missing or not a number.
    pub fn from_metadata(xml: &str) -> Result<Self> {
        Self::from_element(&Tree::from_xml(xml)?.root)
    }

    /// The mark in a `<domain>` or `<network>`; `None` when it has none.
    ///
    /// # Errors
    /// When there is an element of our namespace that is not a mark as this version writes it. The object must then be
    /// treated as marked by somebody: it is not foreign.
    pub fn find(document: &Element) -> Result<Option<Self>> {
        let Some(metadata) = document.find("metadata") else { return Ok(None) };
        metadata.elements().find(|element| is_ours(element, metadata, document)).map(Self::from_element).transpose()
    }

    fn from_element(element: &Element) -> Result<Self> {
        if split_name(element.name()).1 != ELEMENT {
            return Err(Error::Value {
                path: "metadata".into(),
                value: element.name().to_owned(),
                expected: "the element 'object' of a mark",
            });
        }
        let text = |name: &str| {
            element
                .attribute(name)
                .map(str::to_owned)
                .ok_or_else(|| Error::Missing { path: format!("metadata/{ELEMENT}/@{name}") })
        };
        let number = |name: &str| -> Result<i64> {
            let value = text(name)?;
            value.parse().map_err(|_| Error::Value {
                path: format!("metadata/{ELEMENT}/@{name}"),
                value,
                expected: "a whole number",
            })
        };
        Ok(Self {
            cluster: text("cluster")?,
            namespace: text("namespace")?,
            name: text("name")?,
            uid: text("uid")?,
            epoch: number("epoch")?,
            generation: number("generation")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark {
            cluster: "c1".into(),
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u1".into(),
            epoch: 3,
            generation: 7,
        }
    }

    #[test]
    fn is_found_again_in_a_document_whatever_the_prefix() {
        let domain = Element::new("domain").child(Element::new("metadata").child(mark().to_element()));
        assert_eq!(Mark::find(&domain), Ok(Some(mark())));
        let renamed = domain.to_xml().replace("kubevmm:", "k:").replace("xmlns:kubevmm", "xmlns:k");
        assert_eq!(Mark::find(&Tree::from_xml(&renamed).unwrap().root), Ok(Some(mark())));
        let on_root = "<domain xmlns:k='https://kubevmm.io/libvirt/1'><metadata>\
            <k:object cluster='c1' namespace='shop' name='web' uid='u1' epoch='3' generation='7'/></metadata></domain>";
        assert_eq!(Mark::find(&Tree::from_xml(on_root).unwrap().root), Ok(Some(mark())));
    }

    #[test]
    fn is_read_back_from_libvirts_metadata_calls() {
        assert_eq!(Mark::from_metadata(&mark().to_metadata()), Ok(mark()));
    }

    #[test]
    fn somebody_elses_metadata_is_no_mark() {
        let other = "<domain><metadata><o:object xmlns:o='http://libosinfo.org/xmlns/libvirt/domain/1.0' uid='x'/></metadata></domain>";
        assert_eq!(Mark::find(&Tree::from_xml(other).unwrap().root), Ok(None));
        assert_eq!(Mark::find(&Element::new("domain")), Ok(None));
    }

    #[test]
    fn a_damaged_mark_is_an_error_and_not_foreign() {
        let domain = |mark: Element| Element::new("domain").child(Element::new("metadata").child(mark));
        let bad = mark().to_element().attr("epoch", "many");
        assert!(matches!(Mark::find(&domain(bad)), Err(Error::Value { .. })));
        let newer = Element::new("kubevmm:thing").attr("xmlns:kubevmm", MARK_NAMESPACE);
        assert!(Mark::find(&domain(newer)).is_err());
    }
}
