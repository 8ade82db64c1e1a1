//! What `virNetworkGetXMLDesc` returns.

use uuid::Uuid;

use super::field;
use crate::error::Result;
use crate::mark::Mark;

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: Uuid,
    /// Bridge, where the network has one.
    pub bridge: Option<String>,
    /// Forward mode; `None` for an isolated network.
    pub forward: Option<String>,
    /// Mark of ownership. `Err` when there is one that cannot be read: such a network is not foreign.
    pub mark: Result<Option<Mark>>,
}

/// Reads a network.
///
/// # Errors
/// When the text is not a network's XML or lacks a name or UUID.
pub fn read_network(xml: &str) -> Result<NetworkInfo> {
    let network = field::document(xml, "network")?;
    let forward = network.find("forward").map(|forward| forward.attribute("mode").unwrap_or("nat").to_owned());
    Ok(NetworkInfo {
        name: field::text(&network, &["name"])?,
        uuid: field::uuid(&network, &["uuid"])?,
        bridge: field::attribute(&network, &["bridge"], "name"),
        forward,
        mark: Mark::find(&network),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_network() {
        let xml = "<network connections='1'><name>.lan</name><uuid>0dd4f2cb-7a0c-4d53-9d5e-2d6a6c1f8b11</uuid>
          <forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward>
          <bridge name='virbr7' stp='on' delay='0'/></network>";
        let network = read_network(xml).unwrap();
        assert_eq!(network.name, ".lan");
        assert_eq!(network.bridge.as_deref(), Some("virbr7"));
        assert_eq!(network.forward.as_deref(), Some("nat"));
        assert_eq!(network.mark, Ok(None));
    }
}
