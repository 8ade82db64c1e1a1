//! A lifted domain as one document: whose it is, what the host decides, what the typed fields of a VirtualMachine say, and
//! the rest.

use std::borrow::Cow;

use super::fields::{Fields, choice, list, number, text};
use crate::error::{Error, Result};
use crate::lift::{Lifted, Vocabulary, lift_with};
use crate::lower::{
    Accelerator, CpuInput, CpuModel, DiskBus, DiskDevice, DiskLocation, Firmware, Format, HostFacts, Identity, Machine,
    NicSource, Typed, TypedDisk, TypedNic,
};
use crate::mark::Mark;
use crate::merge::owned;
use crate::tree::Tree;
use crate::value::{NUMBER_END, Value};

/// The document of a domain.
pub(super) fn document(domain: &Tree) -> Result<Value<'static>> {
    let Lifted { identity, typed, domain } = lift_with(domain, Vocabulary::Spec, None)?;
    let parts = [
        ("identity", Some(of_identity(&identity))),
        ("host", Some(of_host(&typed.host))),
        ("spec", Some(of_spec(&typed))),
        ("domain", Some(domain)),
    ];
    Ok(mapping(parts))
}

/// Whether a value is a document of a lifted domain, and not a domain.
pub(super) fn is_document(value: &Value<'_>) -> bool {
    value.get("spec").is_some()
}

/// The domain of a document.
pub(super) fn domain(document: &Value<'_>) -> Result<Tree> {
    let mut fields = Fields::of(document, "")?;
    let identity = fields.take("identity").map_or_else(|| Ok(Identity::default()), identity)?;
    let host = host(fields.need("host")?)?;
    let typed = spec(fields.need("spec")?, host)?;
    let domain = fields.take("domain").map_or_else(|| Value::Mapping(Vec::new()), |(_, domain)| owned(domain));
    fields.end()?;
    Ok(Tree::new(Lifted { identity, typed, domain }.lower()?))
}

fn mapping<const N: usize>(entries: [(&'static str, Option<Value<'static>>); N]) -> Value<'static> {
    let present = entries.into_iter().filter_map(|(key, value)| Some((Cow::Borrowed(key), value?)));
    Value::Mapping(present.collect())
}

fn string(text: impl ToString) -> Value<'static> {
    Value::String(Cow::Owned(text.to_string()))
}

fn integer(number: impl Into<i64>) -> Value<'static> {
    let number = number.into();
    if number.unsigned_abs() < NUMBER_END.unsigned_abs() { Value::Number(number) } else { string(number) }
}

fn of_identity(identity: &Identity) -> Value<'static> {
    let mark = identity.mark.as_ref().map(|mark| {
        mapping([
            ("cluster", Some(string(&mark.cluster))),
            ("namespace", Some(string(&mark.namespace))),
            ("name", Some(string(&mark.name))),
            ("uid", Some(string(&mark.uid))),
            ("epoch", Some(integer(mark.epoch))),
            ("generation", Some(integer(mark.generation))),
        ])
    });
    mapping([
        ("name", identity.name.as_ref().map(string)),
        ("uuid", identity.uuid.as_ref().map(string)),
        ("mark", mark),
    ])
}

fn identity((path, value): (String, &Value<'_>)) -> Result<Identity> {
    let mut fields = Fields::of(value, &path)?;
    let name = fields.take("name").map(text).transpose()?;
    let uuid = fields.take("uuid").map(text).transpose()?;
    let mark = fields.take("mark").map(mark).transpose()?;
    fields.end()?;
    Ok(Identity { name, uuid, mark })
}

fn mark((path, value): (String, &Value<'_>)) -> Result<Mark> {
    let mut fields = Fields::of(value, &path)?;
    let mark = Mark {
        cluster: text(fields.need("cluster")?)?,
        namespace: text(fields.need("namespace")?)?,
        name: text(fields.need("name")?)?,
        uid: text(fields.need("uid")?)?,
        epoch: number(fields.need("epoch")?)?,
        generation: number(fields.need("generation")?)?,
    };
    fields.end()?;
    Ok(mark)
}

fn of_host(host: &HostFacts) -> Value<'static> {
    let (accelerator, cache) = match host.accelerator {
        Accelerator::Kvm => ("kvm", None),
        Accelerator::Tcg { tb_cache_mib } => ("tcg", tb_cache_mib),
    };
    mapping([
        ("accelerator", Some(string(accelerator))),
        ("tbCacheMiB", cache.map(integer)),
        ("arch", Some(string(&host.arch))),
        ("emulator", host.emulator.as_ref().map(string)),
    ])
}

fn host((path, value): (String, &Value<'_>)) -> Result<HostFacts> {
    let mut fields = Fields::of(value, &path)?;
    let is_kvm = choice(fields.need("accelerator")?, &[("kvm", true), ("tcg", false)])?;
    let accelerator = if is_kvm {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg { tb_cache_mib: fields.take("tbCacheMiB").map(number).transpose()? }
    };
    let arch = text(fields.need("arch")?)?;
    let emulator = fields.take("emulator").map(text).transpose()?;
    fields.end()?;
    Ok(HostFacts { accelerator, arch, emulator })
}

const MACHINES: [(&str, Machine); 2] = [("q35", Machine::Q35), ("pc", Machine::Pc)];
const FIRMWARES: [(&str, Firmware); 1] = [("bios", Firmware::Bios)];
const BUSES: [(&str, DiskBus); 3] = [("virtio", DiskBus::Virtio), ("scsi", DiskBus::Scsi), ("sata", DiskBus::Sata)];
const FORMATS: [(&str, Format); 2] = [("raw", Format::Raw), ("qcow2", Format::Qcow2)];

/// The word of a value; each is in its table.
fn word<T: PartialEq>(of: &T, words: &[(&'static str, T)]) -> Option<Value<'static>> {
    words.iter().find(|(_, value)| value == of).map(|(word, _)| Value::String(Cow::Borrowed(word)))
}

fn of_spec(typed: &Typed) -> Value<'static> {
    let some_list = |items: Vec<Value<'static>>| (!items.is_empty()).then_some(Value::Sequence(items));
    let only = |key, value| Some(mapping([(key, value)]));
    mapping([
        ("cpu", only("cores", Some(integer(typed.cpu.vcpus)))),
        ("memory", only("size", Some(string(size_text(typed.memory_bytes))))),
        ("machine", only("type", word(&typed.machine, &MACHINES))),
        ("firmware", only("type", word(&typed.firmware, &FIRMWARES))),
        ("disks", some_list(typed.disks.iter().map(of_disk).collect())),
        ("networks", some_list(typed.nics.iter().map(of_nic).collect())),
    ])
}

fn spec((path, value): (String, &Value<'_>), host: HostFacts) -> Result<Typed> {
    let mut fields = Fields::of(value, &path)?;
    let cores = number(fields.only("cpu", "cores")?)?;
    let typed = Typed {
        machine: choice(fields.only("machine", "type")?, &MACHINES)?,
        cpu: CpuInput { vcpus: cores, max_vcpus: cores, model: CpuModel::default_for(host.accelerator) },
        memory_bytes: size(fields.only("memory", "size")?)?,
        firmware: choice(fields.only("firmware", "type")?, &FIRMWARES)?,
        disks: fields.take("disks").map_or_else(|| Ok(Vec::new()), |disks| list(disks, disk))?,
        nics: fields.take("networks").map_or_else(|| Ok(Vec::new()), |nics| list(nics, nic))?,
        host,
    };
    fields.end()?;
    Ok(typed)
}

fn of_disk(disk: &TypedDisk) -> Value<'static> {
    let source = match &disk.location {
        DiskLocation::File(path) => mapping([("file", Some(string(path)))]),
        DiskLocation::Block(path) => mapping([("dev", Some(string(path)))]),
        DiskLocation::Volume { pool, volume } => {
            mapping([("pool", Some(string(pool))), ("volume", Some(string(volume)))])
        }
    };
    mapping([
        ("name", Some(string(&disk.name))),
        ("bootOrder", disk.boot_order.map(integer)),
        ("bus", word(&disk.bus, &BUSES)),
        ("source", Some(source)),
        ("format", word(&disk.format, &FORMATS)),
        ("alias", disk.alias.as_ref().map(string)),
    ])
}

fn disk((path, value): (String, &Value<'_>)) -> Result<TypedDisk> {
    let mut fields = Fields::of(value, &path)?;
    let disk = TypedDisk {
        name: text(fields.need("name")?)?,
        alias: fields.take("alias").map(text).transpose()?,
        location: location(fields.need("source")?)?,
        format: choice(fields.need("format")?, &FORMATS)?,
        device: DiskDevice::Disk,
        bus: fields.take("bus").map_or(Ok(DiskBus::Virtio), |bus| choice(bus, &BUSES))?,
        read_only: false,
        boot_order: fields.take("bootOrder").map(number).transpose()?,
        serial: None,
    };
    fields.end()?;
    Ok(disk)
}

fn location((path, value): (String, &Value<'_>)) -> Result<DiskLocation> {
    let mut fields = Fields::of(value, &path)?;
    let location = match (fields.take("file"), fields.take("dev"), fields.take("pool")) {
        (Some(file), None, None) => DiskLocation::File(text(file)?),
        (None, Some(dev), None) => DiskLocation::Block(text(dev)?),
        (None, None, Some(pool)) => DiskLocation::Volume { pool: text(pool)?, volume: text(fields.need("volume")?)? },
        _ => return Err(Error::at(path, "expected one of file, dev, and pool with volume")),
    };
    fields.end()?;
    Ok(location)
}

fn of_nic(nic: &TypedNic) -> Value<'static> {
    let source = match &nic.source {
        NicSource::Network(name) => ("network", Some(string(name))),
        NicSource::Bridge(name) => ("bridge", Some(string(name))),
    };
    mapping([
        ("name", Some(string(&nic.name))),
        ("source", Some(mapping([source]))),
        ("model", nic.model.as_ref().map(string)),
        ("macAddress", nic.mac.as_ref().map(string)),
        ("alias", nic.alias.as_ref().map(string)),
    ])
}

fn nic((path, value): (String, &Value<'_>)) -> Result<TypedNic> {
    let mut fields = Fields::of(value, &path)?;
    let nic = TypedNic {
        name: text(fields.need("name")?)?,
        alias: fields.take("alias").map(text).transpose()?,
        source: nic_source(fields.need("source")?)?,
        mac: fields.take("macAddress").map(text).transpose()?,
        model: fields.take("model").map(text).transpose()?,
        boot_order: None,
    };
    fields.end()?;
    Ok(nic)
}

fn nic_source((path, value): (String, &Value<'_>)) -> Result<NicSource> {
    let mut fields = Fields::of(value, &path)?;
    let source = match (fields.take("network"), fields.take("bridge")) {
        (Some(network), None) => NicSource::Network(text(network)?),
        (None, Some(bridge)) => NicSource::Bridge(text(bridge)?),
        _ => return Err(Error::at(path, "expected one of network and bridge")),
    };
    fields.end()?;
    Ok(source)
}

/// Binary suffixes of a Kubernetes quantity.
const SUFFIXES: [(&str, u32); 5] = [("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];

fn size_text(bytes: u64) -> String {
    let whole = SUFFIXES.iter().find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1_u64 << shift));
    whole.map_or_else(|| bytes.to_string(), |(suffix, shift)| format!("{}{suffix}", bytes >> shift))
}

fn size(found: (String, &Value<'_>)) -> Result<u64> {
    let path = found.0.clone();
    let text = text(found)?;
    let split = |(suffix, shift): &(&str, u32)| Some((text.strip_suffix(*suffix)?, *shift));
    let (digits, shift) = SUFFIXES.iter().find_map(split).unwrap_or((text.as_str(), 0));
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1_u64 << shift));
    bytes.ok_or_else(|| Error::at(path, format!("'{text}' is no size: write one such as 512Mi or 2Gi, or bytes")))
}
