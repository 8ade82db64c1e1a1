//! The definition behind the XML of a running domain: what `virsh dumpxml` prints without `--inactive`, less what libvirt
//! fills in for the run. Pure.

use kubevmm_analyser::{Element, Node};

/// Names that libvirt makes up for the host's end of a NIC.
const GENERATED_NICS: [&str; 3] = ["vnet", "macvtap", "macvlan"];

/// What there is of the definition in a running domain.
pub(super) struct Defined {
    /// The domain as it would be defined.
    pub(super) domain: Element,
    /// It has a CPU that libvirt wrote down for the run: what was asked for cannot be told from it.
    pub(super) cpu_of_the_run: bool,
}

/// What a running domain was defined as.
///
/// # Errors
/// What cannot be told from a running domain.
pub(super) fn definition(live: &Element) -> Result<Defined, String> {
    for device in live.all("devices").flat_map(Element::elements) {
        let source_of_network = device.at(&["source"]).is_some_and(|source| source.attribute("network").is_some());
        let kind = device.attribute("type").unwrap_or_default();
        match device.name() {
            "disk" if device.find("mirror").is_some() => return Err("a disk of it is being copied".into()),
            "interface" if source_of_network && !matches!(kind, "network" | "bridge") => {
                return Err(format!("a NIC of it has a device of the host's network, of the type {kind}"));
            }
            _ => {}
        }
    }
    let cpu = live.find("cpu");
    let has = |name: &str, value: &str| cpu.is_some_and(|cpu| cpu.attribute(name) == Some(value));
    let cpu_of_the_run = has("mode", "custom") && has("check", "full");
    Ok(Defined { domain: defined(&mut Vec::new(), live), cpu_of_the_run })
}

/// The same element, without what only a running domain has. `place` are the names from the root to it.
fn defined<'a>(place: &mut Vec<&'a str>, live: &'a Element) -> Element {
    let mut element = Element::new(live.name().to_owned());
    for attribute in live.attributes().iter().filter(|attribute| !is_of_run(place, live, attribute.name())) {
        element.set_attribute(attribute.name().to_owned(), attribute.value());
    }
    if place.as_slice() == ["devices", "interface"] && live.at(&["source"]).is_some_and(is_of_network) {
        element.set_attribute("type", "network");
    }
    for node in live.nodes() {
        match node {
            Node::Text(text) => element.push_text(text),
            Node::Element(child) => {
                place.push(child.name());
                if !is_element_of_run(place, child, live) {
                    element.push(defined(place, child));
                }
                place.pop();
            }
        }
    }
    element
}

/// Whether the source of a NIC is a network, whatever that is connected to.
fn is_of_network(source: &Element) -> bool {
    source.attribute("network").is_some()
}

/// Whether an element is of the run; `parent` is the one that it is in.
fn is_element_of_run(place: &[&str], is: &Element, parent: &Element) -> bool {
    let attribute = |name| is.attribute(name).unwrap_or_default();
    match place {
        ["resource"] => is.text_at(&["partition"]).as_deref() == Some("/machine") && is.elements().count() == 1,
        ["seclabel"] => {
            attribute("type") == "dynamic" && attribute("relabel") != "no" && is.find("baselabel").is_none()
        }
        ["seclabel", "label" | "imagelabel"] => parent.attribute("type") == Some("dynamic"),
        ["devices", _, "alias"] => !attribute("name").starts_with("ua-"),
        ["devices", "disk", "backingStore"] | ["devices", "disk", "source", "privateData"] => true,
        ["devices", "interface", "target"] => {
            GENERATED_NICS.iter().any(|prefix| attribute("dev").starts_with(prefix)) && is.attributes().len() == 1
        }
        ["devices", "channel", "source"] if attribute("path").contains("/qemu/channel/") => true,
        ["devices", "serial" | "parallel" | "console" | "channel" | "redirdev" | "smartcard", "source"] => {
            parent.attribute("type") == Some("pty")
        }
        ["devices", "memory", "target", "current"] => true,
        _ => false,
    }
}

/// Whether an attribute of an element is of the run.
fn is_of_run(place: &[&str], of: &Element, name: &str) -> bool {
    let is = |name: &str, value: &str| of.attribute(name) == Some(value);
    match (place, name) {
        ([], "id")
        | (["devices", "disk", "source"], "index")
        | (["devices", "disk", "target"], "tray")
        | (["devices", "interface", "source"], "portid")
        | (["devices", "serial" | "parallel" | "console"], "tty")
        | (["devices", "channel", "target"], "state") => true,
        (["devices", "interface", "source"], "bridge") => is_of_network(of),
        (["devices", "graphics"], "port" | "tlsPort") => is("autoport", "yes"),
        (["devices", "graphics"], "listen") => {
            of.find("listen").is_some_and(|first| first.attribute("type") == Some("network"))
        }
        (["devices", "graphics", "listen"], "address") => is("type", "network"),
        (["devices", "vsock", "cid"], "address") => is("auto", "yes"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevmm_analyser::Tree;
    use kubevmm_analyser::diff::{Mode, diff};

    fn domain(devices: &str) -> String {
        format!("<domain type='kvm'><name>a</name><devices>{devices}</devices></domain>")
    }

    fn definition_of(live: &str) -> Result<Defined, String> {
        definition(&Tree::from_xml(live).unwrap().root)
    }

    #[test]
    fn what_libvirt_fills_in_at_a_start_is_left_out() {
        for (live, wanted) in [
            (
                "<disk type='file'><source file='/a' index='2'/><backingStore type='file' index='3'><format type='qcow2'/>\
              <source file='/b'/><backingStore/></backingStore><target dev='hda' bus='ide' tray='open'/>\
              <alias name='ide0-0-0'/></disk>",
                "<disk type='file'><source file='/a'/><target dev='hda' bus='ide'/></disk>",
            ),
            (
                "<disk type='block'><source dev='/dev/a' index='1'/><backingStore/><alias name='ua-root'/></disk>",
                "<disk type='block'><source dev='/dev/a'/><alias name='ua-root'/></disk>",
            ),
            (
                "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default' portid='9c3e' bridge='virbr0'/>\
              <target dev='vnet3'/><model type='virtio'/><alias name='net0'/></interface>",
                "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/><model type='virtio'/></interface>",
            ),
            (
                "<interface type='bridge'><source network='lan' portgroup='a' portid='9c3e' bridge='br0'/><target dev='vnet4'/></interface>",
                "<interface type='network'><source network='lan' portgroup='a'/></interface>",
            ),
            (
                "<interface type='bridge'><source bridge='br0'/><target dev='tap-web'/></interface>",
                "<interface type='bridge'><source bridge='br0'/><target dev='tap-web'/></interface>",
            ),
            (
                "<interface type='direct'><source dev='eth0' mode='bridge'/><target dev='macvtap0'/></interface>",
                "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>",
            ),
            (
                "<serial type='pty'><source path='/dev/pts/3'/><target port='0'/><alias name='serial0'/></serial>\
              <console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/><target type='serial' port='0'/></console>",
                "<serial type='pty'><target port='0'/></serial><console type='pty'><target type='serial' port='0'/></console>",
            ),
            (
                "<serial type='file'><source path='/var/log/a'/></serial>",
                "<serial type='file'><source path='/var/log/a'/></serial>",
            ),
            (
                "<channel type='unix'><source mode='bind' path='/run/libvirt/qemu/channel/1-a/org.qemu.guest_agent.0'/>\
              <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>",
                "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
            ),
            (
                "<channel type='unix'><source mode='bind' path='/srv/mine'/></channel>",
                "<channel type='unix'><source mode='bind' path='/srv/mine'/></channel>",
            ),
            (
                "<graphics type='spice' port='5900' tlsPort='5901' autoport='yes' listen='127.0.0.1'>\
              <listen type='address' address='127.0.0.1'/></graphics>",
                "<graphics type='spice' autoport='yes' listen='127.0.0.1'><listen type='address' address='127.0.0.1'/></graphics>",
            ),
            (
                "<graphics type='vnc' port='5901' autoport='no' listen='192.0.2.1'><listen type='network' address='192.0.2.1' network='lan'/></graphics>",
                "<graphics type='vnc' port='5901' autoport='no'><listen type='network' network='lan'/></graphics>",
            ),
            (
                "<vsock model='virtio'><cid auto='yes' address='3'/></vsock><vsock><cid auto='no' address='4'/></vsock>",
                "<vsock model='virtio'><cid auto='yes'/></vsock><vsock><cid auto='no' address='4'/></vsock>",
            ),
        ] {
            let defined = definition_of(&domain(live)).unwrap();
            let wanted = Tree::from_xml(&domain(wanted)).unwrap();
            let differences = diff(&wanted, &Tree::new(defined.domain), Mode::Exact);
            assert!(differences.is_empty(), "{live}: {differences:?}");
        }
    }

    #[test]
    fn a_whole_domain_is_what_was_defined() {
        let inside = |resource: &str, labels: &str| {
            format!(
                "<name>a</name><metadata><o:note xmlns:o='https://example.org'><o:alias name='x'/></o:note></metadata>\
                 <memory>1048576</memory>{resource}<cpu mode='host-passthrough' check='none'/>\
                 <seclabel type='dynamic' model='selinux' relabel='yes'><baselabel>b</baselabel>{labels}</seclabel>\
                 <seclabel type='static' model='dac' relabel='no'><label>+1:+1</label></seclabel>"
            )
        };
        let live = format!(
            "<domain type='kvm' id='7'>{}<seclabel type='dynamic' model='apparmor' relabel='yes'><label>l</label>\
             <imagelabel>l</imagelabel></seclabel></domain>",
            inside(
                "<resource><partition>/machine</partition></resource>",
                "<label>l</label><imagelabel>i</imagelabel>"
            )
        );
        let wanted = format!("<domain type='kvm'>{}</domain>", inside("", ""));
        let defined = definition_of(&live).unwrap();
        assert!(!defined.cpu_of_the_run);
        let differences = diff(&Tree::from_xml(&wanted).unwrap(), &Tree::new(defined.domain), Mode::Exact);
        assert!(differences.is_empty(), "{differences:?}");
        let own = "<domain type='kvm' id='7'><resource><partition>/mine</partition></resource></domain>";
        assert!(definition_of(own).unwrap().domain.find("resource").is_some());
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        let run = "<domain id='7'><cpu mode='custom' match='exact' check='full'><model>qemu64</model></cpu></domain>";
        assert!(definition_of(run).unwrap().cpu_of_the_run);
        for (devices, said) in [
            ("<interface type='direct'><source network='lan' dev='eth0' mode='bridge'/></interface>", "type direct"),
            ("<interface type='hostdev'><source network='sriov'/></interface>", "type hostdev"),
            ("<disk type='file'><source file='/a'/><mirror type='file' job='copy'/></disk>", "being copied"),
        ] {
            let why = definition_of(&domain(devices)).err().unwrap();
            assert!(why.contains(said), "{why}");
        }
    }
}
