//! Storage pools and volumes.

use std::fmt;

use uuid::Uuid;

use crate::tree::Element;

/// A pool of type `dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolInput {
    /// libvirt's name, `kubevmm.<name>`.
    pub name: String,
    /// libvirt's UUID: the object's uid. It is the pool's mark.
    pub uuid: Uuid,
    /// The directory, an absolute path.
    pub target_path: String,
    /// Rights of the directory when libvirt makes it; `None`: libvirt's default, 0711.
    pub permissions: Option<Permissions>,
}

/// A volume of a pool of type `dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInput {
    /// File name in the pool.
    pub name: String,
    /// Size that the guest sees, in bytes.
    pub capacity_bytes: u64,
    /// Format.
    pub format: Format,
    /// The volume below a copy-on-write one.
    pub backing: Option<Backing>,
    /// Rights of the file; `None`: libvirt's default, 0600.
    pub permissions: Option<Permissions>,
}

/// What a copy-on-write volume is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Path on the host.
    pub path: String,
    /// Its format; never guessed, for a guest can write a header that looks like another one.
    pub format: Format,
}

/// Format of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Plain bytes.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// Rights of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Mode bits, as in `0o600`.
    pub mode: u32,
    /// User and group by number; `None`: those that libvirt runs as.
    pub owner: Option<(u32, u32)>,
}

/// The pool.
pub fn lower_pool(input: &PoolInput) -> Element {
    Element::new("pool")
        .attr("type", "dir")
        .child(Element::leaf("name", &input.name))
        .child(Element::leaf("uuid", input.uuid))
        .child(
            Element::new("target")
                .child(Element::leaf("path", &input.target_path))
                .children(input.permissions.map(permissions)),
        )
}

/// The volume. It takes no space before it is written to.
pub fn lower_volume(input: &VolumeInput) -> Element {
    let compat = (input.format == Format::Qcow2).then(|| Element::leaf("compat", "1.1"));
    let backing = input.backing.as_ref().map(|backing| {
        Element::new("backingStore")
            .child(Element::leaf("path", &backing.path))
            .child(Element::new("format").attr("type", backing.format))
    });
    Element::new("volume")
        .attr("type", "file")
        .child(Element::leaf("name", &input.name))
        .child(Element::leaf("capacity", input.capacity_bytes).attr("unit", "bytes"))
        .child(Element::leaf("allocation", 0).attr("unit", "bytes"))
        .child(
            Element::new("target")
                .child(Element::new("format").attr("type", input.format))
                .children(input.permissions.map(permissions))
                .children(compat),
        )
        .children(backing)
}

fn permissions(input: Permissions) -> Element {
    Element::new("permissions").child(Element::leaf("mode", format_args!("{:04o}", input.mode))).children(
        input.owner.iter().flat_map(|(user, group)| [Element::leaf("owner", user), Element::leaf("group", group)]),
    )
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}
