//! `kubevmm-analyser lift`, `lower` and `diff` as a shell sees them.
#![allow(missing_docs, clippy::unwrap_used)]

mod apt;
mod attributes;
mod corpus;
mod program;

use attributes::sorted;
use kubevmm_analyser::Tree;
use program::{directory, said};

const XML: &str = "\
<domain type='kvm'>
  <name>web</name>
  <uuid>0dd4f2cb-7a0c-4d53-9d5e-2d6a6c1f8b11</uuid>
  <memory unit='KiB'>2097152</memory>
  <vcpu placement='static'>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='host-model' check='partial'>
    <topology sockets='1' cores='2' threads='1'/>
  </cpu>
  <clock offset='utc'>
    <timer name='rtc' tickpolicy='catchup'/>
    <timer name='pit' tickpolicy='delay'/>
    <timer name='hpet' present='no'/>
  </clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <pm>
    <suspend-to-mem enabled='no'/>
    <suspend-to-disk enabled='no'/>
  </pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap' cache='none'/>
      <source file='/srv/web.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:12:34:56'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
    <serial type='pty'>
      <target type='isa-serial' port='0'/>
    </serial>
    <console type='pty'>
      <target type='serial' port='0'/>
    </console>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <video>
      <model type='none'/>
    </video>
    <memballoon model='virtio'/>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
  </devices>
</domain>
";

const LIFTED: &str = "\
identity:
  name: web
  uuid: 0dd4f2cb-7a0c-4d53-9d5e-2d6a6c1f8b11
host:
  accelerator: kvm
  arch: x86_64
  emulator: /usr/bin/qemu-system-x86_64
spec:
  cpu:
    cores: 2
  memory:
    size: 2Gi
  machine:
    type: q35
  firmware:
    type: bios
  disks:
  - name: vda
    bus: virtio
    source:
      file: /srv/web.qcow2
    format: qcow2
  networks:
  - name: net0
    source:
      network: default
    model: virtio
    macAddress: '52:54:00:12:34:56'
domain:
  devices:
    disks:
    - alias:
        name: ua-disk-vda
      driver:
        cache: none
";

/// A file of this name and content in a new directory; its path.
fn file(test: &str, name: &str, content: &str) -> String {
    let path = directory(test).join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn what_the_fields_of_a_vm_say_and_the_rest() {
    assert_eq!(said(&["lift", "-"], XML), (0, LIFTED.into(), String::new()));
    let (code, back, error) = said(&["lower", "-"], LIFTED);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(sorted(&Tree::from_xml(&back).unwrap().root), sorted(&Tree::from_xml(XML).unwrap().canonical().root));
    let (_, json, _) = said(&["lift", "-o", "json", "-"], XML);
    assert!(json.starts_with("{\n  \"identity\": {\n    \"name\": \"web\","), "{json}");
    assert_eq!(said(&["lower", "-"], &json).1, back);
}

#[test]
fn a_change_of_a_field_is_a_change_of_the_domain() {
    let more = LIFTED.replace("2Gi", "3145728Ki").replace("cores: 2", "cores: 4").replace("bus: virtio", "bus: sata");
    let xml = said(&["lower", "-"], &more).1;
    for part in [
        "<memory unit='KiB'>3145728</memory>",
        "<vcpu placement='static'>4</vcpu>",
        "<target dev='sda' bus='sata'/>",
        "cache='none'",
    ] {
        assert!(xml.contains(part), "no {part} in\n{xml}");
    }
}

#[test]
fn mistakes_in_a_lifted_document_are_named_by_their_path() {
    for (from, to, error) in [
        ("cores: 2", "cores: two", "spec.cpu.cores: 'two' is no whole number that is possible here"),
        ("cores: 2", "core: 2", "spec.cpu.cores: is missing"),
        ("size: 2Gi", "size: 2GB", "spec.memory.size: '2GB' is no size: write one such as 512Mi or 2Gi, or bytes"),
        ("bus: virtio", "bus: ide", "spec.disks[0].bus: 'ide' is not virtio or scsi or sata"),
        ("bus: virtio", "buss: virtio", "spec.disks[0].buss: there is no such field here"),
        ("file: /srv", "path: /srv", "spec.disks[0].source: expected one of file, dev, and pool with volume"),
        ("type: q35", "type: [q35]", "spec.machine.type: expected text, found a list"),
        ("name: web", "name: \"we\\x01b\"", "identity.name: has a character that XML does not allow"),
        ("host:", "hosts:", "host: is missing"),
        (
            "  devices:",
            "  name: web\n  devices:",
            "domain.name: cannot be set here: it is made from the object's namespace and name",
        ),
    ] {
        assert!(LIFTED.contains(from), "{from}");
        let (code, out, said) = said(&["lower", "-"], &LIFTED.replacen(from, to, 1));
        assert_eq!((code, out.as_str(), said), (1, "", format!("standard input: {error}\n")), "{to}");
    }
    let (code, _, error) = said(&["lift", "-"], "<network/>");
    assert_eq!((code, error.as_str()), (1, "standard input: /: 'network' is not domain\n"));
}

/// Every so many of libvirt's own test domains comes back from a directory of lifted ones.
#[test]
fn domains_of_the_corpus_come_back() {
    const EVERY: usize = 30;
    let [xml, lifted, back] = ["cli-corpus", "cli-corpus-lifted", "cli-corpus-back"].map(directory);
    let parsed = corpus::documents().into_iter().filter_map(|d| Some((Tree::from_bytes(&d.bytes).ok()?, d.bytes)));
    let domains = parsed.filter(|(tree, _)| tree.root.name() == "domain").step_by(EVERY);
    let domains: Vec<Tree> = domains
        .enumerate()
        .map(|(number, (tree, bytes))| {
            std::fs::write(xml.join(format!("{number}.xml")), bytes).unwrap();
            tree
        })
        .collect();
    assert_eq!(domains.len(), 98);
    let [from, to, again] = [&xml, &lifted, &back].map(|path| path.display().to_string());
    let all = format!("{} converted, 0 failed\n", domains.len());
    assert_eq!(said(&["lift", &from, "-d", &to], ""), (0, String::new(), all.clone()));
    assert_eq!(said(&["lower", &to, "-d", &again], ""), (0, String::new(), all));
    for (number, tree) in domains.iter().enumerate() {
        let lowered = Tree::from_bytes(&std::fs::read(back.join(format!("{number}.xml"))).unwrap()).unwrap();
        assert_eq!(sorted(&lowered.root), sorted(&tree.canonical().root), "{number}");
    }
    let compared = format!("{} compared, 0 failed\n", domains.len());
    assert_eq!(said(&["diff", "--mode", "exact", &from, &to], ""), (0, String::new(), compared));
}

#[test]
fn differences_have_paths_and_an_exit_code() {
    let was = file("cli-diff", "web.xml", XML);
    assert_eq!(said(&["diff", &was, "-"], XML), (0, String::new(), String::new()));
    assert_eq!(said(&["diff", &was, "-"], LIFTED), (0, String::new(), String::new()));
    let yaml = said(&["to-yaml", &was], "").1;
    assert_eq!(said(&["diff", "-", &was], &yaml), (0, String::new(), String::new()));

    let is = XML
        .replace("cache='none'", "cache='writeback'")
        .replace("    <rng", "    <watchdog model='itco'>\n      <alias name='ua-dog'/>\n    </watchdog>\n    <rng")
        .replace("2097152", "1048576")
        .replace(" discard='unmap'", "");
    let (code, out, error) = said(&["diff", &was, "-"], &is);
    let expected = "\
memory: '2097152' -> '1048576'
devices/disk[vda]/driver/@discard: 'unmap' -> nothing
devices/disk[vda]/driver/@cache: 'none' -> 'writeback'
devices/watchdog[ua-dog]: nothing -> <watchdog model='itco'><alias name='ua-dog'/></watchdog>
";
    assert_eq!((code, out.as_str(), error.as_str()), (1, expected, ""));
    let (code, out, _) = said(&["diff", "-o", "yaml", &was, "-"], &XML.replace("2097152", "1"));
    assert_eq!((code, out.as_str()), (1, "- path: memory\n  from: '2097152'\n  to: '1'\n"));
}

#[test]
fn what_libvirt_fills_in_is_a_difference_when_asked_for() {
    let was = file("cli-diff-modes", "web.xml", XML);
    let defined = XML.replace("machine='q35'", "machine='pc-q35-10.0'");
    let running = defined.replace("<domain type='kvm'>", "<domain type='kvm' id='7'>");
    for (is, mode, code) in
        [(&defined, "desired", 0), (&defined, "exact", 1), (&running, "live", 0), (&running, "desired", 1)]
    {
        assert_eq!(said(&["diff", "--mode", mode, &was, "-"], is).0, code, "{mode}");
    }
}

#[test]
fn trouble_is_no_difference() {
    let was = file("cli-diff-trouble", "web.xml", XML);
    for (arguments, input, error) in [
        (["diff", &was, "-"], "<domain>", "standard input: XML, line 1, column 9: "),
        (["diff", &was, "-"], "<network/>", "standard input: /: 'network' is not domain\n"),
        (["diff", &was, "-"], "spec: {}\n", "standard input: host: is missing\n"),
        (["diff", &was, "/no/such/file"], "", "/no/such/file: No such file or directory (os error 2)\n"),
        (["diff", "-", "-"], "", "error: - and -: give two files or two directories; only one of two files "),
        (["diff", &was, "/"], "", &format!("error: {was} and /: give two files or two directories; ")),
    ] {
        let (code, out, said) = said(&arguments, input);
        assert_eq!((code, out.as_str()), (2, ""), "{said}");
        assert!(said.starts_with(error), "{said}");
    }
}

#[test]
fn directories_are_compared_file_by_file() {
    let (was, is) = (directory("cli-diff-was"), directory("cli-diff-is"));
    for name in ["a.xml", "b.xml", "gone.xml"] {
        std::fs::write(was.join(name), XML).unwrap();
    }
    std::fs::write(is.join("a.yaml"), LIFTED).unwrap();
    std::fs::write(is.join("b.xml"), XML.replace("<name>web<", "<name>db<")).unwrap();
    let [was, is] = [&was, &is].map(|path| path.display().to_string());
    let (code, out, error) = said(&["diff", &was, &is], "");
    let expected = format!("b: name: 'web' -> 'db'\ngone: only in {was}\n");
    assert_eq!((code, out, error.as_str()), (1, expected, "3 compared, 0 failed\n"));
    let (code, out, _) = said(&["diff", "-o", "json", &was, &is], "");
    let data: serde_json::Value = serde_json::from_str(&out).unwrap();
    let expected = serde_json::json!([
        {"document": "b", "path": "name", "from": "web", "to": "db"},
        {"document": "gone", "onlyIn": was},
    ]);
    assert_eq!((code, data), (1, expected));

    std::fs::write(format!("{is}/gone.xml"), "<domain").unwrap();
    let (code, out, error) = said(&["diff", &was, &is], "");
    assert_eq!((code, out.as_str()), (2, "b: name: 'web' -> 'db'\n"));
    assert!(error.starts_with(&format!("{is}/gone.xml: XML, line 1, ")) && error.ends_with("\n2 compared, 1 failed\n"));
    std::fs::write(format!("{is}/a.xml"), XML).unwrap();
    let (code, _, error) = said(&["diff", &was, &is], "");
    assert_eq!((code, error), (2, format!("error: {is}: two files are a, with different endings\n")));
}
