//! What is wrong is refused at once with the field's path, or shown as a condition that clears by itself when the
//! cause goes away. Nothing else is disturbed, nothing is left behind.

use anyhow::{Context, Result, anyhow, ensure};
use kubevmm_tests::server::{Answer, Server};
use kubevmm_tests::{Bystander, Json, Space, Vm, api, wait_for, within};

kubevmm_tests::stories! { alone: false;
    what_the_schema_refuses,
    what_must_not_change,
    what_other_objects_lack,
    what_servers_do_to_images,
    what_is_taken,
}

/// What is wrong, the change that makes it so, and what the refusal must say: the field's path, with the colon that
/// ends it, and where the rule is about a whole object, which of its fields.
const REFUSED_VMS: &[(&str, &str, &[&str])] = &[
    ("memory of zero", "spec: {memory: {size: '0'}}", &["spec.memory.size:"]),
    ("negative memory", "spec: {memory: {size: -1Gi}}", &["spec.memory.size:"]),
    ("huge memory", "spec: {memory: {size: 2Ei}}", &["spec.memory.size:"]),
    ("memory that is no size", "spec: {memory: {size: much}}", &["spec.memory.size:"]),
    ("no memory and no class", "spec: {memory: null}", &["spec:", "spec.memory.size is required"]),
    ("no CPU", "spec: {cpu: {cores: 0}}", &["spec.cpu.cores:"]),
    ("half a CPU", "spec: {cpu: {cores: 0.5}}", &["spec.cpu.cores:"]),
    ("too many CPUs", "spec: {cpu: {cores: 513}}", &["spec.cpu.cores:"]),
    (
        "a disk of size zero",
        "spec: {disks: [{name: a, template: {size: '0', source: {blank: {}}}}]}",
        &["spec.disks[0].template.size:"],
    ),
    (
        "a disk of negative size",
        "spec: {disks: [{name: a, template: {size: -5Gi, source: {blank: {}}}}]}",
        &["spec.disks[0].template.size:"],
    ),
    (
        "a huge disk",
        "spec: {disks: [{name: a, template: {size: 5Ei, source: {blank: {}}}}]}",
        &["spec.disks[0].template.size:"],
    ),
    (
        "a blank disk without size",
        "spec: {disks: [{name: a, template: {source: {blank: {}}}}]}",
        &["spec.disks[0].template:", "size is required"],
    ),
    (
        "a disk from nowhere",
        "spec: {disks: [{name: a, template: {size: 1Gi, source: {}}}]}",
        &["spec.disks[0].template.source:", "exactly one of blank, image and existing"],
    ),
    ("a disk of nothing", "spec: {disks: [{name: a}]}", &["spec.disks[0]:", "exactly one of template"]),
    (
        "a disk of two things",
        "spec: {disks: [{name: a, diskName: b, template: {size: 1Gi, source: {blank: {}}}}]}",
        &["spec.disks[0]:", "exactly one of template"],
    ),
    ("a domain that is text", "spec: {domain: text}", &["spec.domain:"]),
    (
        "a UUID beside that of an existing domain",
        "spec: {existingDomain: {nodeName: h1, uuid: 0a000000-0000-4000-8000-000000000001}, \
         firmware: {uuid: 0a000000-0000-4000-8000-000000000002}}",
        &["spec:", "spec.firmware.uuid is not accepted beside spec.existingDomain"],
    ),
    (
        "to observe what is not named",
        "spec: {management: Observe}",
        &["spec:", "spec.management Observe needs spec.existingDomain"],
    ),
    ("two disks of one name", "spec: {disks: [{name: a, diskName: b}, {name: a, diskName: c}]}", &["spec.disks:"]),
    ("two NICs of one name", "spec: {networks: [{name: a}, {name: a}]}", &["spec.networks:"]),
    (
        "two NICs of one MAC address",
        "spec: {networks: [{name: a, macAddress: '02:00:00:00:00:0a'}, {name: b, macAddress: '02:00:00:00:00:0A'}]}",
        &["spec.networks:", "macAddress"],
    ),
    (
        "a multicast MAC address",
        "spec: {networks: [{name: a, macAddress: '01:00:5e:00:00:01'}]}",
        &["spec.networks[0].macAddress:"],
    ),
    ("a strange run strategy", "spec: {runStrategy: Sometimes}", &["spec.runStrategy:"]),
    ("a negative grace period", "spec: {terminationGracePeriodSeconds: -1}", &["spec.terminationGracePeriodSeconds:"]),
    (
        "user data twice",
        "spec: {cloudInit: {userData: a, userDataSecretName: b}}",
        &["spec.cloudInit:", "cloudInit.userData and cloudInit.userDataSecretName"],
    ),
    ("a field that is none", "spec: {colour: red}", &["spec.colour:"]),
    ("a class name that is none", "spec: {className: 'No Such'}", &["spec.className:"]),
    ("a UUID that is none", "spec: {firmware: {uuid: '1234'}}", &["spec.firmware.uuid:"]),
    (
        "a name of 64 characters",
        "metadata: {name: a123456789a123456789a123456789a123456789a123456789a123456789a123}",
        &["metadata.name must be"],
    ),
    ("a name with a dot", "metadata: {name: a.b}", &["metadata.name must be"]),
];

/// The same of other kinds: the whole manifest.
const REFUSED_OBJECTS: &[(&str, &str, &[&str])] = &[
    (
        "an image by ftp",
        "kind: VirtualMachineImage\nspec: {source: {http: {url: 'ftp://a/b'}}}",
        &["spec.source.http.url:"],
    ),
    (
        "a checksum that is none",
        "kind: VirtualMachineImage\nspec: {source: {http: {url: 'http://a/b'}}, checksum: 'md5:1'}",
        &["spec.checksum:"],
    ),
    (
        "a pool of two kinds",
        "kind: VirtualMachineStoragePool\nspec: {dir: {path: /a/b}, existing: {name: c}}",
        &["spec:", "exactly one of dir"],
    ),
    ("a pool at no absolute path", "kind: VirtualMachineStoragePool\nspec: {dir: {path: a/b}}", &["spec.dir.path:"]),
    ("a pool that climbs", "kind: VirtualMachineStoragePool\nspec: {dir: {path: /a/../etc}}", &["spec.dir.path:"]),
    (
        "a subnet that is none",
        "kind: VirtualMachineNetwork\nspec: {nat: {subnet: 300.0.0.0/24}}",
        &["spec.nat.subnet:"],
    ),
    (
        "a subnet that is a host",
        "kind: VirtualMachineNetwork\nspec: {nat: {subnet: 10.0.0.7/24}}",
        &["spec.nat.subnet:"],
    ),
    (
        "a cluster network of nothing",
        "kind: ClusterVirtualMachineNetwork\nspec: {}",
        &["spec:", "exactly one of nat and existing"],
    ),
    ("a disk of a bad size", "kind: VirtualMachineDisk\nspec: {size: 1Ki, source: {blank: {}}}", &["spec.size:"]),
    (
        "a disk of two sources",
        "kind: VirtualMachineDisk\nspec: {size: 1Gi, poolName: a, source: {blank: {}, existing: {nodeName: h1, \
         volumeName: b, format: raw}}}",
        &["spec.source:", "exactly one of blank, image and existing"],
    ),
    (
        "an existing volume of another size",
        "kind: VirtualMachineDisk\nspec: {size: 1Gi, poolName: a, source: {existing: {nodeName: h1, volumeName: b, \
         format: raw}}}",
        &["size does not go with source.existing"],
    ),
    (
        "an existing volume in no pool",
        "kind: VirtualMachineDisk\nspec: {source: {existing: {nodeName: h1, volumeName: b, format: raw}}}",
        &["poolName is required with source.existing"],
    ),
    (
        "an existing volume that climbs",
        "kind: VirtualMachineDisk\nspec: {poolName: a, source: {existing: {nodeName: h1, volumeName: ../b, format: raw}}}",
        &["spec.source.existing.volumeName:"],
    ),
    (
        "an existing volume of an unknown format",
        "kind: VirtualMachineDisk\nspec: {poolName: a, source: {existing: {nodeName: h1, volumeName: b}}}",
        &["spec.source.existing.format: Required"],
    ),
];

fn what_the_schema_refuses(space: &Space) -> Result<()> {
    for (what, change, words) in REFUSED_VMS {
        let refusal = space.blank("bad").with(change).is_refused().with_context(|| (*what).to_owned())?;
        names(what, &refusal, words)?;
    }
    for (what, manifest, words) in REFUSED_OBJECTS {
        let yaml = format!("apiVersion: kubevmm.io/v1beta1\nmetadata: {{name: bad}}\n{manifest}");
        let refusal = space.apply(&yaml).err().with_context(|| format!("{what} was accepted"))?.to_string();
        names(what, &refusal, words)?;
    }
    let left = space.api().list(api::VM, &space.namespace)?;
    ensure!(left.is_empty(), "a refused VM is there");
    Ok(())
}

fn names(what: &str, refusal: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(refusal.contains(word), "{what}: the refusal does not say {word:?}: {refusal}");
    }
    Ok(())
}

fn what_must_not_change(space: &Space) -> Result<()> {
    let vm = space.blank("web").with("spec: {runStrategy: Halted}").apply()?;
    vm.is_off()?;
    let refusal = vm.patch("{firmware: {uuid: 11111111-2222-4333-8444-555555555555}}").unwrap_err().to_string();
    ensure!(refusal.contains("spec.firmware.uuid is immutable"), "{refusal}");
    wait_for("the VM's disk is there", within(30), || space.get(api::DISK, "web-root"))?;
    for (change, word) in [
        ("{size: 16Mi}", "size is immutable"),
        ("{size: 4Mi}", "size is immutable"),
        ("{poolName: other}", "poolName is immutable"),
        ("{source: {blank: null, image: {name: a}}}", "source is immutable"),
    ] {
        let patch: Json = api::documents(change)?.remove(0);
        let changed = space.api().patch(api::DISK, &space.namespace, "web-root", &serde_json::json!({"spec": patch}));
        let refusal = changed.err().with_context(|| format!("{change} was accepted"))?.to_string();
        names(change, &refusal, &["spec:", word])?;
    }
    Ok(())
}

/// Waits until one of the VM's conditions is False, for one of these reasons, with `word` in its message.
fn complains(vm: &Vm, reasons: &[&str], word: &str) -> Result<()> {
    vm.wait(&format!("complains: one of {reasons:?}, with {word:?}"), within(90), |vm| {
        ["Scheduled", "DisksReady", "Ready"].iter().any(|kind| {
            let (status, reason, message) = api::condition(vm, kind);
            status == "False" && reasons.contains(&reason) && message.contains(word)
        })
    })
    .map(drop)
}

fn what_other_objects_lack(space: &Space) -> Result<()> {
    let bystander = Bystander::of(space.guest("bystander").apply()?)?;
    let namespace = &space.namespace;
    let from =
        |image: &str| format!("spec: {{disks: [{{name: root, template: {{source: {{image: {{name: {image}}}}}}}}}]}}");
    let vms = [
        (space.blank("a-class").with(&format!("spec: {{className: {namespace}}}")), "ClassNotFound", namespace.as_str()),
        (
            space.blank("a-pool").with(&format!(
                "spec: {{disks: [{{name: root, template: {{size: 8Mi, poolName: {namespace}, source: {{blank: {{}}}}}}}}]}}"
            )),
            "PoolNotFound",
            namespace,
        ),
        (space.blank("an-image").with(&from("later")), "ImageNotFound", "later"),
        (
            space.blank("a-network").with("spec: {networks: [{name: lan, network: {name: later}}]}"),
            "NetworkNotFound",
            "later",
        ),
        (space.blank("a-disk").with("spec: {disks: [{name: root, diskName: later}]}"), "DiskNotFound", "later"),
        (space.blank("a-secret").with("spec: {cloudInit: {userDataSecretName: later}}"), "SecretNotFound", "later"),
        (space.blank("room").with("spec: {memory: {size: 512Ti}}"), "Unschedulable", "nsufficient memory"),
        (space.blank("a-node").with("spec: {placement: {nodeSelector: {story-node: here}}}"), "Unschedulable", "node"),
    ];
    let vms =
        vms.iter().map(|(draft, reason, word)| Ok((draft.apply()?, *reason, *word))).collect::<Result<Vec<_>>>()?;
    for (vm, reason, word) in &vms {
        complains(vm, &[reason], word)?;
        vm.stays_off(0)?;
    }
    bystander.has_noticed_nothing()?;

    // The causes go away.
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineClass, metadata: {{name: {namespace}}}, spec: {{cpu: {{cores: 1}}}}}}\n\
         ---\n\
         {{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {namespace}}}, \
          spec: {{dir: {{path: /var/lib/kubevmm/{namespace}}}}}}}\n\
         ---\n\
         {{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineImage, metadata: {{name: later}}, \
          spec: {{source: {{http: {{url: '{}'}}}}}}}}\n\
         ---\n\
         {{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineNetwork, metadata: {{name: later}}, \
          spec: {{nat: {{subnet: 192.168.164.0/24}}}}}}\n\
         ---\n\
         {{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineDisk, metadata: {{name: later}}, \
          spec: {{size: 8Mi, source: {{blank: {{}}}}}}}}\n\
         ---\n\
         {{apiVersion: v1, kind: Secret, metadata: {{name: later}}, stringData: {{userData: '#cloud-config'}}}}",
        space.cluster.url(&format!("tiny.qcow2?story={namespace}"))
    ))?;
    space.vm("room").patch("{memory: {size: 32Mi}}")?;
    space.cluster.kubectl(["label", "node", "h1", "story-node=here"])?;
    for (vm, ..) in &vms {
        vm.is_ready()?;
    }
    space.cluster.kubectl(["label", "node", "h1", "story-node-"])?;
    for (vm, ..) in &vms {
        vm.delete()?;
    }
    for (vm, ..) in &vms {
        vm.is_gone()?;
    }
    bystander.has_noticed_nothing()?;
    space.api().delete(api::CLASS, "", namespace)?;
    space.api().delete(api::POOL, "", namespace)?;
    space.api().wait_gone(api::POOL, "", namespace, within(60))
}

/// The header of a qcow2 image (version 2) of 8 MiB whose data lies in another file.
fn qcow2_with_backing_file(backing: &str) -> Vec<u8> {
    const CLUSTER_BITS: u32 = 16;
    let mut image = vec![0; 3 << CLUSTER_BITS];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &2_u32.to_be_bytes());
    put(8, &72_u64.to_be_bytes());
    put(16, &u32::try_from(backing.len()).unwrap().to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &(8_u64 << 20).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(1_u64 << CLUSTER_BITS).to_be_bytes());
    put(48, &(2_u64 << CLUSTER_BITS).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(72, backing.as_bytes());
    image
}

/// What a server does first, and by what reason that is told.
const BAD_ANSWERS: &[(&str, Option<Bad>, &str)] = &[
    ("late", None, "DownloadFailed"),
    ("html", Some(|_| Answer::Page), "NotAnImage"),
    ("cut", Some(Answer::Truncated), "DownloadFailed"),
    ("based", Some(|_| Answer::File(qcow2_with_backing_file("/etc/shadow"))), "BackingFileRefused"),
    ("sum", Some(|_| Answer::File(vec![8; 1 << 20])), "ChecksumMismatch"),
    ("refused", None, "DownloadFailed"),
    // The last one, for it takes the longest to be seen.
    ("silent", Some(|_| Answer::Silence), "DownloadFailed"),
];

/// Makes a bad answer of the good file.
type Bad = fn(Vec<u8>) -> Answer;

/// The digest of 1 MiB of the byte 7.
const GOOD_DIGEST: &str = "sha256:51b12eb838732b786b4d45c660a974ddf3860ae09084fd293fa6e5df46581a6c";

fn what_servers_do_to_images(space: &Space) -> Result<()> {
    let bystander = Bystander::of(space.guest("bystander").apply()?)?;
    let good = vec![7; 1 << 20];
    let machine = space.cluster.lab.options().machine_address();
    let (mut server, mut refusing) = (Server::closed(machine)?, Server::closed(machine)?);
    server.open()?;
    let mut vms = Vec::new();
    for (name, bad, reason) in BAD_ANSWERS {
        if let Some(bad) = bad {
            server.answer(name, bad(good.clone()));
        }
        let url = if *name == "refused" { refusing.url(name) } else { server.url(name) };
        let checksum = if *name == "sum" { format!("checksum: '{GOOD_DIGEST}'") } else { String::new() };
        space.apply(&format!(
            "apiVersion: kubevmm.io/v1beta1\nkind: VirtualMachineImage\nmetadata: {{name: {name}}}\n\
             spec: {{source: {{http: {{url: '{url}'}}}}, {checksum}}}"
        ))?;
        let root = format!("spec: {{disks: [{{name: root, template: {{source: {{image: {{name: {name}}}}}}}}}]}}");
        vms.push((space.blank(name).with(&root).apply()?, *name, *reason));
    }
    for (vm, name, reason) in &vms {
        image_fails(space, name, reason)?;
        complains(vm, &[reason], "")?;
        vm.stays_off(0)?;
        // The cause goes away, at the same URL.
        let server = if *name == "refused" { &mut refusing } else { &mut server };
        server.answer(name, Answer::File(good.clone()));
        if *name == "refused" {
            server.open()?;
        }
    }
    for (vm, name, _) in &vms {
        vm.is_ready().with_context(|| format!("the image {name} is good now"))?;
        let image = space.condition(api::IMAGE, name, "Ready", "True", "")?;
        ensure!(image["status"]["digest"] == GOOD_DIGEST, "{name}: {}", image["status"]);
    }
    for (vm, ..) in &vms {
        vm.delete()?;
    }
    for (vm, ..) in &vms {
        vm.is_gone()?;
    }
    bystander.has_noticed_nothing()
}

fn image_fails(space: &Space, name: &str, reason: &str) -> Result<()> {
    let what = format!("is not Ready: {reason}");
    let image = space.api().wait(api::IMAGE, &space.namespace, name, &what, within(90), |image| {
        let (status, why, _) = api::condition(image, "Ready");
        (status, why) == ("False", reason)
    })?;
    let message = api::condition(&image, "Ready").2;
    if message.is_empty() { Err(anyhow!("no message")) } else { Ok(()) }
}

fn what_is_taken(space: &Space) -> Result<()> {
    let bystander = Bystander::of(space.guest("bystander").apply()?)?;
    // Two VMs for one disk: the first keeps it.
    space.apply(
        "{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineDisk, metadata: {name: data}, \
         spec: {size: 8Mi, source: {blank: {}}}}",
    )?;
    let with_disk = "spec: {disks: [{name: data, diskName: data}]}";
    let first = space.blank("first").with(with_disk).apply()?;
    first.is_ready()?;
    let second = space.blank("second").with(with_disk).apply()?;
    let why = second.condition("DisksReady", "False", "DiskInUse")?;
    ensure!(why.contains("first"), "the holder is not named: {why}");
    first.stays_ready(2)?;
    first.vanishes()?;
    second.is_ready()?;

    // A derived name that another object holds.
    space.apply(
        "{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineDisk, metadata: {name: third-root}, \
         spec: {size: 8Mi, source: {blank: {}}}}",
    )?;
    let third = space.blank("third").apply()?;
    let why = third.condition("DisksReady", "False", "NameTaken")?;
    ensure!(why.contains("third-root"), "the disk is not named: {why}");
    space.delete(api::DISK, "third-root")?;
    third.is_ready()?;

    // A domain of that name that is not ours.
    let h1 = space.cluster.host("h1");
    let domain = format!("{}.fourth", space.namespace);
    h1.virsh_xml(
        "define",
        &format!(
            "<domain type='qemu'><name>{domain}</name><memory unit='MiB'>16</memory>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
        ),
    )?;
    let foreign = h1.virsh(["dumpxml", "--inactive", &domain])?;
    let fourth = space.blank("fourth").on("h1").apply()?;
    fourth.condition("Ready", "False", "NameTaken")?;
    ensure!(h1.virsh(["dumpxml", "--inactive", &domain])? == foreign, "a foreign domain was changed");
    h1.virsh(["undefine", &domain])?;
    fourth.is_ready()?;

    // A network that this namespace may not use.
    let network = &space.namespace;
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: ClusterVirtualMachineNetwork, metadata: {{name: {network}}}, \
         spec: {{nat: {{subnet: 192.168.165.0/24}}}}}}"
    ))?;
    let nic = format!(
        "spec: {{networks: [{{name: lan, network: {{kind: ClusterVirtualMachineNetwork, name: {network}}}}}]}}"
    );
    let fifth = space.blank("fifth").with(&nic).apply()?;
    complains(&fifth, &["NetworkNotAllowed"], network)?;
    let open = serde_json::json!({"spec": {"allowedNamespaces": [space.namespace]}});
    space.api().patch(api::CLUSTER_NETWORK, "", network, &open)?;
    fifth.is_ready()?;
    fifth.vanishes()?;
    space.api().delete(api::CLUSTER_NETWORK, "", network)?;
    space.api().wait_gone(api::CLUSTER_NETWORK, "", network, within(60))?;
    bystander.has_noticed_nothing()
}
